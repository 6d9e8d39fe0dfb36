"""The filter line of the domain screen: it narrows the trace, or in the events tab the refusals, with every key."""

from __future__ import annotations

from textual.widgets import Input

from xenconsole.screens.explaining import ExplainingScreen
from xenconsole.widgets.grants_panel import RefusalsPane
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.trace_panel import TracePanel


class FilteredScreen(ExplainingScreen):
    """What the domain screen is built on: a filter line `#filter` for the pane that can be filtered."""

    tab = ""

    def show_tab(self, tab: str) -> None:
        """Bring a tab to the front."""
        raise NotImplementedError

    def lay_out(self, front: Pane | None = None) -> None:
        """Put a pane in front."""
        raise NotImplementedError

    def _filtered(self) -> TracePanel | RefusalsPane:
        return self.query_one(RefusalsPane) if self.tab == "events" else self.query_one(TracePanel)

    def action_filter(self) -> None:
        if self.tab not in ("trace", "events"):
            self.show_tab("trace")
        box = self.query_one("#filter", Input)
        self.lay_out(self._filtered())
        box.add_class("-open")
        box.value = self._filtered().filter.text
        box.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        if message.input.has_class("-open"):
            self._filtered().set_filter(message.value)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.input.remove_class("-open")
        self.set_focus(self._filtered())

    def close_filter(self) -> bool:
        """Take the filter away; False when the line was not open."""
        box = self.query_one("#filter", Input)
        if not box.has_class("-open"):
            return False
        box.remove_class("-open")
        box.value = ""
        self._filtered().set_filter("")
        self.set_focus(self._filtered())
        return True
