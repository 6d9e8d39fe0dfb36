"""The logs at full size: what happened in the engine, and every command given here as xl would have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.screen import Screen

from xenconsole.app_protocol import OverviewArrived
from xenconsole.widgets.key_line import KeyLine
from xenconsole.widgets.log_view import LogView

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp


class LogsScreen(Screen[None]):
    """Events above, commands below; `/` keeps the lines that contain a text."""

    CSS_PATH = "logs.tcss"

    def compose(self) -> ComposeResult:
        shell = cast("ConsoleApp", self.app)
        for journal, name, empty, width in (
            (shell.events, "events", "nothing has happened yet", 14),
            (shell.command_journal, "commands", "actions appear here as xl would have them", 0),
        ):
            log = LogView(journal, empty=empty, source_width=width, id=name)
            log.border_title = name
            yield log
        yield KeyLine(show_command_palette=False, compact=True)

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        self.sync_logs()

    def sync_logs(self) -> None:
        for log in self.query(LogView):
            log.sync()

    def set_filter(self, text: str) -> str:
        for log in self.query(LogView):
            log.set_pattern(text)
        self.query_one("#events", LogView).border_title = f"events containing {text}" if text else "events"
        return ""
