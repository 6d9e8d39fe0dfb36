"""Snapshots of a domain: when each was taken, what it holds, and the console's last lines at that moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from emulator.control.views import SnapshotView
from emulator.errors import UserError
from xenconsole.app_protocol import OverviewArrived
from xenconsole.units import fit, printable, size

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp


class SnapshotsScreen(Screen[None]):
    """Newest first; Enter restores (the present is kept first, so it can be undone), x forgets."""

    CSS_PATH = "logs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x,delete", "forget", "forget", id="snapshots.forget"),
        Binding("R", "restore", "restore", id="snapshots.restore"),
    ]

    def __init__(self, domid: int) -> None:
        super().__init__()
        self.domid = domid
        self._taken: tuple[SnapshotView, ...] = ()
        self._known = -1

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        with Horizontal():
            yield OptionList(id="list", compact=True)
            yield Static(id="preview", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#preview").border_title = "console at that moment"
        self.run_worker(self.load(), exclusive=True)

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        view = next((v for v in message.overview.domains if v.domid == self.domid), None)
        if view is not None and view.snapshots != self._known:
            self.run_worker(self.load(), exclusive=True)

    async def load(self) -> None:
        """Ask the engine for the list again."""
        shell = cast("ConsoleApp", self.app)
        name = shell.name_of(self.domid)
        before = self.chosen
        try:
            self._taken = tuple(sorted(await shell.client.snapshots(self.domid), key=lambda s: -s.taken_unix))
        except (ConnectionError, UserError) as error:
            self.query_one("#title", Static).update(f" snapshots of {name}: {printable(str(error))}")
            return
        self._known = len(self._taken)
        count = f"{self._known} snapshot{'' if self._known == 1 else 's'}"
        self.query_one("#title", Static).update(f" {name}   {count}   {'' if self._known else 'S takes one'}")
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(self._line(snap), id=str(i)) for i, snap in enumerate(self._taken)])
        if self._taken:
            same = (i for i, snap in enumerate(self._taken) if before is not None and snap.name == before.name)
            options.highlighted = next(same, 0)  # the cursor stays on its snapshot when another one comes
            options.focus()

    def _line(self, snap: SnapshotView) -> Text:
        when = time.strftime("%H:%M:%S", time.localtime(snap.taken_unix))
        origin = "before a restore" if snap.automatic else ""
        return Text(f"{when}  {fit(printable(snap.name), 26)} {size(snap.pages * 4, long=True):>9}  {origin}", no_wrap=True)

    @property
    def chosen(self) -> SnapshotView | None:
        place = self.query_one(OptionList).highlighted
        return self._taken[place] if place is not None and place < len(self._taken) else None

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        snap = self.chosen
        if snap is not None:
            text = "\n".join(printable(line) for line in snap.screen.splitlines())
            self.query_one("#preview", Static).update(text or "(nothing was on it)")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.action_restore()

    def action_restore(self) -> None:
        self._run("restore")

    def action_forget(self) -> None:
        self._run("forget")

    def _run(self, name: str) -> None:
        snap = self.chosen
        if snap is not None:
            shell = cast("ConsoleApp", self.app)
            shell.start(shell.run_command(name, domid=self.domid, name=snap.name))
