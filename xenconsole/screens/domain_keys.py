"""Keys of the domain screen beside those of the app: tabs, panes, domains, the trace's filter, snapshots."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from xenconsole.screens.domain_tabs import TABS


def bindings() -> list[BindingType]:
    """Fresh bindings; remapped by the settings under their id."""
    return [
        *(
            Binding(str(n + 1), f"tab('{name}')", title, show=False, tooltip=f"tab: {title}", id=f"domain.tab-{name}")
            for n, (name, title) in enumerate(TABS)
        ),
        Binding("left_square_bracket", "step_tab(-1)", "previous tab", show=False, id="domain.previous-tab"),
        Binding("right_square_bracket", "step_tab(1)", "tab", key_display="[ ]", id="domain.next-tab"),
        Binding("tab", "step_pane(1)", "pane", show=False, tooltip="next pane", id="domain.next-pane"),
        Binding("shift+tab", "step_pane(-1)", "pane", show=False, tooltip="previous pane", id="domain.previous-pane"),
        Binding("z", "zoom", "zoom", tooltip="this pane alone, or all", id="domain.zoom"),
        Binding("right", "step_item(1)", "next", show=False, tooltip="next vCPU or ring", id="domain.next-item"),
        Binding("left", "step_item(-1)", "previous", show=False, tooltip="previous vCPU or ring", id="domain.previous-item"),
        Binding("less_than_sign", "step_domain(-1)", "previous domain", show=False, id="domain.previous"),
        Binding("greater_than_sign", "step_domain(1)", "domain", key_display="< >", id="domain.next"),
        Binding("slash", "filter", "filter", show=False, tooltip="filter the trace or the refusals", id="domain.filter"),
        Binding("S", "snapshot", "snapshot", show=False, tooltip="keep the present state", id="domain.snapshot"),
        Binding("R", "restore", "restore", show=False, tooltip="go back to a snapshot", id="domain.restore"),
        Binding("y", "agree", "yes", show=False, id="domain.agree"),
        Binding("d,delete", "forget", "delete", show=False, tooltip="delete the chosen snapshot", id="domain.forget"),
        Binding("enter", "follow", "follow", show=False, tooltip="to the domain that came after it", id="domain.follow"),
        Binding("escape", "leave", "back", show=False, id="domain.back"),
    ]
