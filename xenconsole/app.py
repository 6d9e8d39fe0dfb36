"""The Textual app: modes, workers, nothing else."""

from __future__ import annotations

from textual.app import App
from textual.screen import Screen

from emulator.control.views import HostView, Overview
from xenconsole.app_protocol import Client, EngineNotice, OverviewArrived, Refusal, Result
from xenconsole.rates import Rates


class ConsoleApp(App[int], inherit_bindings=False):
    """The console on an engine. `delay` is the seconds between two ticks, 0 for ticks by hand (`tick()`)."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, client: Client, *, delay: float = 0.25) -> None:
        super().__init__()
        self.client = client
        self.overview = Overview(host=HostView())
        self.rates = Rates()
        self.read_only = False
        self.delay = delay

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return {
            "state-running": "#7fc98a",
            "state-blocked": "#8aa0b4",
            "state-paused": "#e0b35a",
            "state-down": "#75808a",
            "state-crashed": "#e5686d",
            "graph": "#6fb3d2",
            "graph-low": "#4d7f99",
            "graph-high": "#e0b35a",
            "ok": "#7fc98a",
            "notice": "#e0b35a",
            "trouble": "#e5686d",
            "dim": "#75808a",
            "rule": "#33404a",
            "mark": "#c79be0",
            "cursor-row": "#24394a",
            "changed": "#f0d080",
        }

    def on_mount(self) -> None:
        self.client.on_event(self._notice)
        if self.delay:
            self.set_interval(self.delay, self.tick)

    def _notice(self, kind: str, domid: int) -> None:
        if self._running and self._screen_stack:
            self.screen.post_message(EngineNotice(kind, domid))

    async def tick(self) -> None:
        """Pull one overview and tell the screen in front."""
        self.overview = await self.client.overview(self.overview.log_seq)
        self.rates.feed(self.overview)
        self.screen.post_message(OverviewArrived(self.overview))

    async def run_command(self, name: str, **args: str | int | bool | bytes) -> Result:
        if self.read_only:
            return Refusal("the display is read-only (w turns it off)")
        result = await self.client.command(name, **args)
        if not result.ok:
            self.notify(result.error, severity="error")
        return result

    def switch_console(self, domid: int) -> None:
        from xenconsole.screens.console import ConsoleScreen

        self._show(ConsoleScreen(self.client, [domid]))

    def open_domain(self, domid: int, tab: str = "") -> None:
        from xenconsole.screens.domain import DomainScreen

        self._show(DomainScreen(self.client, domid))

    def _show(self, screen: Screen[object]) -> None:
        if len(self.screen_stack) > 1:
            self.switch_screen(screen)
        else:
            self.push_screen(screen)

    def back(self) -> None:
        if len(self.screen_stack) > 1:
            self.pop_screen()
