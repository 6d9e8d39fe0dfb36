"""The Textual app: modes, workers, nothing else."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from textual import events
from textual.app import App
from textual.geometry import Size
from textual.screen import ModalScreen, Screen

from emulator.control.client import NO_ANSWER, start_engine
from emulator.control.messages import CommandResult
from emulator.control.process import EngineOptions
from emulator.control.views import HostView, Overview
from xenconsole import __version__
from xenconsole.actions import Actions
from xenconsole.app_protocol import Client, EngineNotice, OverviewArrived
from xenconsole.commands import find_command
from xenconsole.flow_history import FlowBook
from xenconsole.history import History, history_path
from xenconsole.journal import Entry, Journal
from xenconsole.keymap import app_bindings, checked_keymap
from xenconsole.navigator import Navigator
from xenconsole.news import News
from xenconsole.rates import Rates
from xenconsole.remappable import REMAPPABLE
from xenconsole.resources import demo_files
from xenconsole.screens.confirm import TooSmallScreen
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.host import HostScreen
from xenconsole.screens.logs import LogsScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.settings import Settings, load_settings
from xenconsole.terminal.driver import AltKeysDriver
from xenconsole.terminal.hub import ConsoleHub
from xenconsole.themes import VARIABLES, load_themes, stamp, theme_folders
from xenconsole.typeahead import TypeAhead
from xenconsole.units import printable
from xenconsole.watch import Watch
from xenconsole.widgets.domain_table import DomainTable

LEAST = (60, 15)
"""Columns and rows below which nothing is drawn."""


class ConsoleApp(App[int], inherit_bindings=False):
    """The console on an engine. `delay` is the seconds between two ticks, 0 for ticks by hand (`tick()`). `restart` starts
    another engine when this one is lost. `files` are created as domains at the start."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "xenconsole"
    CSS_PATH = "screens/overview.tcss"  # the lowest screen's: Textual reads no other screen's before it is pushed
    DEFAULT_CSS = "Footer { background: $background; padding: 0 1; FooterKey { padding: 0 1 0 0; .footer-key--key { padding: 0 1 0 0; } } }"
    BINDINGS = app_bindings()

    def __init__(
        self,
        client: Client,
        *,
        settings: Settings | None = None,
        problems: tuple[str, ...] = (),
        delay: float | None = None,
        files: tuple[Path, ...] = (),
        restart: Callable[[], Awaitable[Client]] | None = None,
        history: History | None = None,
    ) -> None:
        super().__init__(driver_class=AltKeysDriver)
        self.client = client
        self.settings = settings or Settings()
        self.delay = self.settings.delay if delay is None else delay
        self.read_only = self.settings.read_only
        self.overview = Overview(host=HostView())
        self.rates = Rates()
        self.flows = FlowBook()
        self.consoles = ConsoleHub(client)
        self.frozen = False
        self.events = Journal()
        self.command_journal = Journal(1000)
        self.news = News()
        self._files, self._restart, self._problems = files, restart, list(problems)
        self._stop_events: Callable[[], None] | None = None
        self.theme_files, theme_problems = load_themes(theme_folders())
        self._theme_stamp = stamp(theme_folders())
        self._problems += theme_problems
        for theme_file in self.theme_files.values():
            self.register_theme(theme_file.theme)
        if self.settings.theme in self.theme_files:
            self.theme = self.settings.theme
        elif self.theme_files:
            self._problems.append(f"theme {self.settings.theme!r} skipped: no such theme; there are {', '.join(self.theme_files)}")
            self.theme = "dark" if "dark" in self.theme_files else next(iter(self.theme_files))
        keys, key_problems = checked_keymap(self.settings.keys, (ConsoleApp, *REMAPPABLE))
        self._problems += key_problems
        self.set_keymap(keys)
        self._overview_screen = OverviewScreen(sort=self.settings.sort)
        self.navigator = Navigator(self)
        self.actions = Actions(self, history)
        self.lookout = Watch(self)
        self.type_ahead = TypeAhead(self, super().on_event)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return dict.fromkeys(VARIABLES, "#a0a0a0") | {"cursor-row": "#303030", "rule": "#404040"}

    def get_default_screen(self) -> Screen[None]:
        return self._overview_screen

    # the life of the app

    def on_mount(self) -> None:
        for problem in self._problems:
            self.report(problem, "warning")
        self._listen()
        self.set_interval(1.0, self._watch_themes)
        self._fit(self.size)

    async def on_unmount(self) -> None:
        await self.consoles.close()

    def _listen(self) -> None:
        """Listen to the engine and pull from it."""
        self._stop_events = self.client.on_event(self._notice)
        self.lookout.begin()
        if self.delay:
            self.run_worker(self._pull(), group="pull", exclusive=True)
        if self._files:
            self.run_worker(self._create_all(), group="create")

    async def _create_all(self) -> None:
        for file in self._files:
            result = await self.client.command("create", file=str(file))
            if not result.ok:
                self.report(f"{file.name}: {result.error}", "error")

    async def _pull(self) -> None:
        while not self.client.lost:
            await self.tick()
            await asyncio.sleep(self.delay)
        self.lookout.lose()

    async def tick(self) -> None:
        """Pull one overview and tell the screens that can be seen."""
        try:
            overview = await self.client.overview(self.overview.log_seq)
        except ConnectionError:
            self.lookout.lose()
            return
        except NO_ANSWER as error:
            self.lookout.miss(str(error))
            return
        names = {view.domid: view.name for view in overview.domains}
        for line in overview.log:
            source = (line.name or names.get(line.domid, f"domain {line.domid}")) if line.domid >= 0 else "host"
            self.events.add(Entry(line.time_unix, source, line.text, line.level, line.domid))
        if self.frozen:
            self.overview = Overview(host=self.overview.host, domains=self.overview.domains, log_seq=overview.log_seq)
            return
        before, self.overview = self.overview, overview
        self.lookout.look(before, overview)
        self.rates.feed(overview)
        self.flows.keep(names)
        self.news.feed(overview.domains, [d for screen in self.visible_screens() for d in getattr(screen, "domids", ())])
        self.navigator.forget_consoles()
        for screen in self.visible_screens():
            screen.post_message(OverviewArrived(overview))

    def visible_screens(self) -> list[Screen[Any]]:
        """The screen in front and, under dialogs, the one they lie over."""
        seen: list[Screen[Any]] = []
        for screen in reversed(self.screen_stack):
            seen.append(screen)
            if not isinstance(screen, ModalScreen):
                break
        return seen

    def _notice(self, kind: str, domid: int) -> None:
        if not self.is_running or not self.screen_stack:
            return
        if kind == "lost":
            self.lookout.lose()
        for screen in self.visible_screens():
            screen.post_message(EngineNotice(kind, domid))

    @property
    def can_restart(self) -> bool:
        return self._restart is not None

    async def take_new_engine(self) -> None:
        """Another engine in the lost one's place; every view of the old one goes. Raises ConnectionError."""
        assert self._restart is not None
        client = await self._restart()
        if self._stop_events is not None:
            self._stop_events()
        await self.consoles.close()
        await self.client.close()
        self.client, self.consoles = client, ConsoleHub(client)
        self.overview, self.rates, self.news, self.flows = Overview(host=HostView()), Rates(), News(), FlowBook()
        self.navigator.show_overview()
        self.navigator.forget_consoles()
        self._listen()

    def on_resize(self, event: events.Resize) -> None:
        self._fit(event.size)

    def _fit(self, size: Size) -> None:
        small = size.width < LEAST[0] or size.height < LEAST[1]
        front = self.screen
        if small and not any(isinstance(s, TooSmallScreen) for s in self.screen_stack):
            self.push_screen(TooSmallScreen(LEAST))
        elif not small and isinstance(front, TooSmallScreen):
            front.dismiss(None)

    def _watch_themes(self) -> None:
        """Read the theme files again when one changed."""
        now = stamp(theme_folders())
        if now == self._theme_stamp:
            return
        self._theme_stamp = now
        self.theme_files, problems = load_themes(theme_folders())
        for problem in problems:
            self.report(problem, "warning")
        for theme_file in self.theme_files.values():
            self.register_theme(theme_file.theme)
        if self.theme in self.theme_files:
            self.mutate_reactive(App.theme)

    # what is chosen, and what is seen of it

    @property
    def chosen(self) -> int:
        """The domain that a command without one is for: the view's own, else the one under the table's cursor."""
        for screen in self.visible_screens():
            domids = getattr(screen, "domids", ())
            domid = domids[0] if domids else getattr(screen, "domid", None)
            if isinstance(domid, int):
                return domid
        return self.base_table().cursor

    @property
    def targets(self) -> tuple[int, ...]:
        """What a key acts on: the marked domains on the overview, else the chosen one."""
        if any(screen is self._overview_screen for screen in self.visible_screens()):
            return self.base_table().targets
        return (self.chosen,) if self.chosen >= 0 else ()

    def base_table(self) -> DomainTable:
        return self._overview_screen.table

    def name_of(self, domid: int) -> str:
        """A domain's name, printable; its ID when it has none or is gone."""
        return next((printable(v.name) for v in self.overview.domains if v.domid == domid and v.name), f"domain {domid}")

    def report(self, text: str, level: str, *, toast: bool = True) -> None:
        """Something that a person should know: into the event log, and as a notice."""
        host = self.overview.host
        now = host.started_unix + host.uptime_ns / 1e9 if host.started_unix else time.time()
        self.events.add(Entry(now, "console", printable(text), level))
        if toast:
            self.notify(printable(text), severity="error" if level == "error" else "warning", markup=False, timeout=8)
        self.sync_logs()

    def sync_logs(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, OverviewScreen | LogsScreen) and screen.is_mounted:
                screen.sync_logs()

    def draw_flags(self) -> None:
        """Read-only, frozen or the filter changed."""
        self._overview_screen.draw_strip()

    def set_frozen(self, on: bool) -> None:
        self.frozen = on
        self.draw_flags()

    def zoom(self) -> None:
        self._overview_screen.toggle_zoom()

    def choose_theme(self, name: str) -> None:
        if name in self.theme_files:
            self.theme = name

    # views, for the screens

    def switch_console(self, domid: int) -> None:
        self.navigator.switch_console(domid)

    def open_domain(self, domid: int, tab: str = "") -> None:
        self.navigator.open_domain(domid, tab)

    def back(self) -> None:
        self.navigator.back()

    # commands

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A console's guest gets every key but Alt+digit and the console's own; sorts and filters work where there is a list."""
        if action != "command":
            return True
        name, front = str(parameters[0]), self.visible_screens()[-1]
        if isinstance(front, ConsoleScreen):
            return False
        if name == "filter":
            return isinstance(front, OverviewScreen | LogsScreen) or (isinstance(front, HostScreen) and bool(front.filtered))
        return not name.startswith("sort") or isinstance(front, OverviewScreen)

    async def on_event(self, event: events.Event) -> None:
        """Keys and clicks wait for a view that is still being put up: they are meant for the whole of it. Those that come
        while the app is leaving mean nothing any more."""
        if isinstance(event, events.InputEvent):
            if self.return_code is not None or not self.screen_stack:
                return
            if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
                await self.type_ahead.take(event)
                return
            if not event.is_forwarded:
                await self.navigator.settled()
        await super().on_event(event)

    def action_command(self, name: str) -> None:
        self.start(self.actions.perform(name))

    def action_to_console(self, number: int) -> None:
        """A console in front shows the domain in its tiles if it has several."""
        if not (isinstance(self.screen, ConsoleScreen) and self.screen.switch_tile(number)):
            self.switch_console(number)

    def take_line(self, line: str) -> None:
        """A line from the palette: carried out, or put into the prompt when something is left to type."""
        self.start(self.actions.prompt(line) if line.endswith(" ") else self.actions.take_line(line))

    async def run_command(self, name: str, /, **args: str | int | bool) -> CommandResult:
        command = find_command(name)
        if command is None:
            return CommandResult(ok=False, error=f"no command {name!r}")
        if command.engine:
            return await self.actions.send(command, [args])
        await self.actions.perform(name, args)
        return CommandResult(ok=True)

    async def leave(self, status: int) -> None:
        """End the app: not while a view is half put up, which would find its widgets missing."""
        await self.navigator.settled()
        self.exit(status)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run something that may wait for a dialog beside the app's own messages."""
        self.run_worker(work, group="commands")


async def run(files: tuple[Path, ...], options: EngineOptions) -> int:
    """Start an engine, show the app on it until it is left, and end the engine whatever happens."""
    settings, problems = load_settings()
    gc.freeze()  # the program itself is no garbage: a search through all of it keeps keys and repaints waiting for 60 ms

    async def engine() -> Client:
        return await start_engine(options, version=__version__)

    app = ConsoleApp(await engine(), settings=settings, problems=problems, files=files, restart=engine, history=History(history_path()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: app.start(app.leave(1)))
    try:
        status = await app.run_async()
    finally:
        await app.client.close()
    return status if status is not None else app.return_code or 0


def main(argv_files: list[str], *, scheduler: str = "", xenstored: str = "", balloon_policy: str = "") -> int:
    """Open the console on the given cfg files, the demo without any, over an engine with these options (EngineOptions). Returns the exit status."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # Textual draws on stderr
        print("xenconsole: the console needs a terminal (xenconsole create -c FILE.cfg works without one)", file=sys.stderr)
        return 2
    files = tuple(Path(name) for name in argv_files) or tuple(demo_files())
    for file in files:
        if not file.is_file():
            print(f"xenconsole: {file}: no such file", file=sys.stderr)
            return 2
    try:
        return asyncio.run(run(files, EngineOptions(scheduler=scheduler, xenstored=xenstored, balloon_policy=balloon_policy)))
    except ConnectionError as error:
        print(f"xenconsole: the engine did not start: {error}", file=sys.stderr)
        return 1
