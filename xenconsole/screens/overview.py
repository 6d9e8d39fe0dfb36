"""The overview: host strip, domain table, event log and command log."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import Screen

from xenconsole.app_protocol import OverviewArrived
from xenconsole.widgets.domain_table import DomainTable
from xenconsole.widgets.host_strip import HostStrip
from xenconsole.widgets.key_line import KeyLine
from xenconsole.widgets.log_view import LogView

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp


class OverviewScreen(Screen[None]):
    """The lowest screen, always there."""

    AUTO_FOCUS = "DomainTable"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (180, "-wide")]  # noqa: RUF012 - Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall"), (50, "-towering")]  # noqa: RUF012 - Textual declares it so

    def __init__(self, *, sort: str = "id") -> None:
        super().__init__()
        self._sort = sort

    def compose(self) -> ComposeResult:
        yield HostStrip(id="host")
        yield DomainTable(sort=self._sort, id="domains")
        with Horizontal(id="logs"):
            events = LogView(self.shell.events, empty="nothing has happened yet", id="events")
            events.border_title = "events"
            yield events
            commands = LogView(self.shell.command_journal, empty="actions appear here as xl would have them", source_width=0, id="commands")
            commands.border_title = "commands"
            yield commands
        yield KeyLine(show_command_palette=False, compact=True)

    @property
    def shell(self) -> ConsoleApp:
        return cast("ConsoleApp", self.app)

    @property
    def table(self) -> DomainTable:
        return self.query_one(DomainTable)

    @property
    def domid(self) -> int:
        """The domain under the cursor, -1 when there is none."""
        return self.table.cursor

    @property
    def targets(self) -> tuple[int, ...]:
        return self.table.targets

    def on_mount(self) -> None:
        self.draw()

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        self.draw()

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.draw()

    def draw(self) -> None:
        """Show the app's present overview."""
        shell = self.shell
        self.table.hold = shell.screen is not self
        self.table.show(shell.overview, shell.rates, shell.news.of)
        self.draw_strip()
        self.sync_logs()

    def draw_strip(self) -> None:
        shell, table = self.shell, self.table
        flags = tuple(
            text
            for text, on in (
                ("READ-ONLY", shell.read_only),
                ("FROZEN", shell.frozen),
                (f"/{table.filter_text}", bool(table.filter_text)),
            )
            if on
        )
        self.query_one(HostStrip).show(shell.overview, shell.rates, flags, shell.client.lost)

    def sync_logs(self) -> None:
        for log in self.query(LogView):
            log.sync()

    def toggle_zoom(self) -> None:
        """The table alone, or with the logs."""
        self.toggle_class("-zoomed")

    def on_resize(self) -> None:
        if self.is_mounted:
            self.call_after_refresh(self.draw_strip)

    def on_domain_table_chosen(self, message: DomainTable.Chosen) -> None:
        if message.domid == 0:
            self.shell.open_domain(0)
        else:
            self.shell.switch_console(message.domid)
