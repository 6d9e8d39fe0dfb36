"""What each command of the table does: the engine's are confirmed, logged and sent, the app's own are carried out here."""

from __future__ import annotations

import asyncio
import glob
import shlex
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from textual.screen import ModalScreen

from emulator.control.client import NO_ANSWER
from emulator.control.messages import CommandResult
from emulator.errors import UserError
from xenconsole.command import Command, Confirm
from xenconsole.command_line import Surroundings, complete, parse, usage_at
from xenconsole.commands import find_command, xl_line
from xenconsole.history import History
from xenconsole.journal import Entry
from xenconsole.palette import Palette, palette
from xenconsole.resources import cfg_files
from xenconsole.screens.confirm import ConfirmScreen
from xenconsole.screens.console import MOST_TILES
from xenconsole.screens.host import HostScreen
from xenconsole.screens.logs import LogsScreen
from xenconsole.screens.prompt import PromptScreen
from xenconsole.units import printable
from xenconsole.widgets.columns import SORTABLE

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp

Values = Mapping[str, str | int | bool]
Work = Coroutine[Any, Any, object]
_Answer = TypeVar("_Answer")


class Actions:
    """Carries out commands for one app."""

    def __init__(self, app: ConsoleApp, history: History | None = None) -> None:
        self.app = app
        self.history = history or History()
        self.destroyed: set[int] = set()  # by us: nobody needs to be told
        self._snapshot_names: tuple[str, ...] = ()
        self._disk_names: tuple[str, ...] = ()
        table = self.app.base_table
        self._own: dict[str, Callable[[Values], Work | None]] = {
            "toggle-pause": self._toggle_pause,
            "timeline": lambda v: app.navigator.open_snapshots(self._domid(v)),
            "list": lambda v: app.navigator.show_overview(),
            "inspect": lambda v: app.open_domain(self._domid(v), str(v.get("tab", ""))),
            "console": self._console,
            "vcpu-list": lambda v: app.open_domain(self._domid(v), "vcpus"),
            "events": lambda v: app.open_domain(self._domid(v), "events"),
            "devices": lambda v: app.open_domain(self._domid(v), "devices"),
            "config": lambda v: app.open_domain(self._domid(v), "config"),
            "logs": lambda v: app.navigator.open_logs(),
            "matrix": lambda v: app.navigator.open_host("matrix"),
            "networks": lambda v: app.navigator.open_host("networks"),
            "storage": lambda v: app.navigator.open_host("storage"),
            "scheduler": lambda v: app.open_domain(0),
            "back": self._back,
            "last-view": lambda v: app.navigator.last_view(),
            "previous-domain": lambda v: app.navigator.step_domain(-1),
            "next-domain": lambda v: app.navigator.step_domain(1),
            "sort": lambda v: table().sort_by(str(v["column"])),
            "sort-cpu": lambda v: table().sort_by("cpu"),
            "sort-memory": lambda v: table().sort_by("mem"),
            "sort-time": lambda v: table().sort_by("time"),
            "sort-name": lambda v: table().sort_by("name"),
            "sort-next": lambda v: table().sort_next(),
            "filter": self.filter,
            "freeze": lambda v: app.set_frozen(not app.frozen),
            "delay": self._delay,
            "read-only": self._read_only,
            "zoom": lambda v: app.zoom(),
            "theme": lambda v: app.choose_theme(str(v["name"])),
            "palette": self._palette,
            "prompt": lambda v: self.prompt(),
            "help": lambda v: app.navigator.open_help(),
            "xenstored": self._xenstored,
            "restart-engine": lambda v: app.lookout.restart(),
            "quit": self._quit,
        }

    def _xenstored(self, values: Values) -> None:
        path = self.app.overview.host.xenstored
        shown = f"export XENSTORED_PATH={shlex.quote(path)}" if path else "xenstore has no socket: the log says why"
        self.app.notify(shown, title="xenstore-ls and its like", timeout=15, markup=False)

    def _domid(self, values: Values) -> int:
        return int(values.get("domid", self.app.chosen))

    def perform(self, name: str, values: Values | None = None) -> Work:
        """Carry out a command; without `values` on what is chosen on the screen. What changes the view is done at once, so
        that the next key is already the new view's; the coroutine returned does the rest."""
        command = find_command(name)
        if command is None:
            return _nothing()
        given = dict(values or {})
        missing = [a for a in command.arguments if not a.optional and a.name not in given]
        if command.name == "restore" and missing:
            self.app.navigator.open_snapshots(self.app.chosen)
        elif missing:
            return self.prompt(f"{command.name} ")
        elif command.on_domain and "domid" not in given and self.app.chosen < 0:
            self.app.notify("no domain is chosen", severity="warning")
        elif command.engine:
            if command.on_domain and "domid" not in given:
                return self.send(command, [{**given, "domid": domid} for domid in self.app.targets])
            return self.send(command, [given])
        else:
            return self._own[command.name](given) or _nothing()
        return _nothing()

    # commands of the engine

    def send(self, command: Command, calls: list[Values]) -> Coroutine[Any, Any, CommandResult]:
        """Send one command for one domain or several: refused in read-only mode, confirmed once, each logged. The last result."""
        refusal = self._refusal(command, calls)
        if refusal:
            self.app.notify(refusal, severity="warning")
        return self._carry_out(command, calls, refusal, None if refusal else self._question(command, calls))

    async def _carry_out(self, command: Command, calls: list[Values], refusal: str, answer: asyncio.Future[bool | None] | None) -> CommandResult:
        if refusal:
            return CommandResult(ok=False, error=refusal)
        if answer is not None and await answer is not True:
            return CommandResult(ok=False, error="not confirmed")
        result = CommandResult(ok=False, error="nothing to do")
        for values in calls:
            if command.name == "snapshot" and not values.get("name"):
                values = {**values, "name": await self._snapshot_name(int(values["domid"]))}
            line = self._line(command, values)
            if command.name == "destroy":
                self.destroyed.add(int(values["domid"]))
            result = await self.app.client.command(command.name, progress=None, **values)
            self._log(line, result)
            if result.ok and command.tells and result.message:
                said = "\n".join(printable(text) for text in result.message.split("\n"))
                self.app.notify(said, title=printable(line), markup=False, timeout=8)
        return result

    def _refusal(self, command: Command, calls: list[Values]) -> str:
        if self.app.client.lost:
            return "the engine is lost; :restart-engine starts a new one"
        if self.app.read_only:
            return f"{command.name} refused: the display is read-only (w ends that)"
        if any(values.get("domid") == 0 for values in calls) and command.name != "rename":
            return f"{command.name} is not for Domain-0"
        return "no domain is chosen" if not calls else ""

    def _question(self, command: Command, calls: list[Values]) -> asyncio.Future[bool | None] | None:
        """The dialog that asks before the command, None when there is nothing to ask."""
        level, asks = command.confirm, self.app.settings.confirm
        if asks == "never" or (asks == "destructive" and level is Confirm.NONE):
            return None
        names = [self.app.name_of(int(values["domid"])) for values in calls if "domid" in values]
        if len(names) == 1:
            what, must = f"{names[0]} (domain {calls[0]['domid']})", names[0]
        elif names:
            what, must = f"{len(names)} domains: {', '.join(names)}", f"{len(names)} domains"
        else:
            what, must = str(calls[0].get("file", "") or calls[0].get("disk", "")), ""
        screen = ConfirmScreen(
            f"{command.name.capitalize()} {what}?",
            loses=command.loses,
            yes=command.name.capitalize(),
            must_type=must if level is Confirm.NAME else "",
        )
        return self.ask(screen)

    def ask(self, screen: ModalScreen[_Answer]) -> asyncio.Future[_Answer | None]:
        """Show a dialog at once, so that the next key is already its own; the answer, None when it was taken away."""
        answer: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()

        def take(value: _Answer | None) -> None:
            if not answer.done():
                answer.set_result(value)

        self.app.push_screen(screen, take)
        return answer

    async def _snapshot_name(self, domid: int) -> str:
        """The first of NAME-1, NAME-2, … that is not taken."""
        name = self.app.name_of(domid)
        try:
            taken = {snap.name for snap in await self.app.client.snapshots(domid)}
        except NO_ANSWER:
            taken = set()  # the engine says what is wrong when the command reaches it
        return next(f"{name}-{n}" for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)

    def _line(self, command: Command, values: Values) -> str:
        shown: dict[str, object] = dict(values)
        if "domid" in values:
            shown |= {"domid": self.app.name_of(int(values["domid"])), "number": values["domid"]}
        return xl_line(command, shown)

    def _log(self, line: str, result: CommandResult) -> None:
        text = line if result.ok else f"{line}: {result.error}"
        self.app.command_journal.add(Entry(time.time(), "", text, "ok" if result.ok else "error"))
        self.app.sync_logs()
        if not result.ok:
            self.app.notify(printable(result.error), title=printable(line), severity="error", markup=False)
        elif result.snapshot is not None:
            self.app.notify(printable(result.message) or f"kept as {result.snapshot.name}", markup=False, timeout=3)

    # the prompt

    def around(self) -> Surroundings:
        """What the prompt may complete with now."""
        views = self.app.overview.domains
        words = {
            "column": SORTABLE,
            "theme": tuple(sorted(self.app.theme_files)),
            "snapshot": self._snapshot_names,
            "pool": tuple(pool.name for pool in self.app.overview.host.pools),
            "disk": self._disk_names,
        }
        return Surroundings({v.domid: printable(v.name) for v in views}, self.app.chosen, words, _files)

    async def _refresh_names(self) -> None:
        """Ask for the disks, and for the chosen domain's snapshots, for completion."""
        self._snapshot_names = self._disk_names = ()
        if self.app.client.lost:
            return
        try:
            self._disk_names = tuple(disk.name for disk in (await self.app.client.storage.pool()).disks)
        except NO_ANSWER:
            pass  # completion does without
        chosen = next((view for view in self.app.overview.domains if view.domid == self.app.chosen), None)
        if chosen is None or not chosen.snapshots:
            return
        try:
            self._snapshot_names = tuple(snap.name for snap in await self.app.client.snapshots(chosen.domid))
        except NO_ANSWER:
            return  # completion does without

    def prompt(self, line: str = "") -> Work:
        """Show the prompt at once; the coroutine returned takes the line and carries it out."""
        answer = self.ask(PromptScreen(":", line, complete=lambda text: complete(text, self.around()), hint=usage_at, history=self.history.lines))

        async def carry_out() -> None:
            await self._refresh_names()
            typed = await answer
            if typed and typed.strip():
                await self.take_line(typed)

        return carry_out()

    async def take_line(self, line: str) -> None:
        """Carry out a typed line; one that lacks arguments is put back into the prompt."""
        line = line.strip()
        self.history.add(line)
        try:
            parsed = parse(line, self.around())
        except UserError as error:
            self.app.notify(printable(error.line()), severity="error", markup=False)
            return
        await self.perform(parsed.command.name, parsed.values)

    # commands of the app

    async def _toggle_pause(self, values: Values) -> None:
        targets = (int(values["domid"]),) if "domid" in values else self.app.targets
        states = {view.domid: view.state for view in self.app.overview.domains}
        for name, paused in (("pause", False), ("unpause", True)):
            calls: list[Values] = [{"domid": d} for d in targets if ("p" in states.get(d, "")) is paused]
            command = find_command(name)
            if calls and command is not None:
                await self.send(command, calls)

    def _console(self, values: Values) -> None:
        """One console, or those of the marked domains side by side."""
        targets = [domid for domid in self.app.targets if domid]
        if "domid" in values or len(targets) < 2:
            self.app.switch_console(self._domid(values))
            return
        if len(targets) > MOST_TILES:
            self.app.notify(f"{MOST_TILES} consoles fit side by side; the first {MOST_TILES} are shown", severity="warning")
        self.app.navigator.open_tiles(tuple(targets[:MOST_TILES]))

    def _back(self, values: Values) -> None:
        """Esc: the view below; on the lowest it takes away the filter, then the marks."""
        if len(self.app.screen_stack) > 1:
            self.app.back()
            return
        table = self.app.base_table()
        if table.filter_text:
            table.set_filter("")
            self.app.draw_flags()
        else:
            table.clear_marks()

    def filter(self, values: Values) -> Work | None:
        """Filter by the given pattern, or show the line that takes one at once."""
        screen, table = self.app.screen, self.app.base_table()
        before, target, hint = table.filter_text, table.set_filter, "regular expression on ID, name and state; ! in front shows the others"
        if isinstance(screen, LogsScreen):
            before, target, hint = "", screen.set_filter, "a text that the lines contain"
        elif isinstance(screen, HostScreen) and (pane := screen.filter_pane()) is not None:
            before, target, hint = pane.filter.text, pane.set_filter, pane.filter_hint
            screen.lay_out(pane)

        def watch(text: str) -> str:
            problem = target(text)
            self.app.draw_flags()
            return problem

        if "pattern" in values:
            if problem := watch(str(values["pattern"])):
                self.app.notify(problem, severity="error", markup=False)
            return None
        answer = self.ask(PromptScreen("/", before, hint=lambda text: hint, watch=watch))

        async def undo() -> None:
            if await answer is None:
                watch(before)

        return undo()

    async def _delay(self, values: Values) -> None:
        seconds = float(values["seconds"])
        if 0.1 <= seconds <= 60:
            self.app.delay = seconds
            self.app.notify(f"updates every {seconds:g} s", timeout=2)
        else:
            self.app.notify("a delay is 0.1 to 60 seconds", severity="error")

    def _read_only(self, values: Values) -> None:
        self.app.read_only = not self.app.read_only
        self.app.draw_flags()

    def _palette(self, values: Values) -> None:
        if not isinstance(self.app.screen, Palette):
            self.app.push_screen(palette())

    def _quit(self, values: Values) -> Work:
        app = self.app
        running = [v for v in app.overview.domains if v.domid and not v.shutdown and not v.crash]
        answer: asyncio.Future[bool | None] | None = None
        if running and not app.client.lost and app.settings.confirm != "never":
            names = ", ".join(printable(v.name) for v in running[:6]) + (" …" if len(running) > 6 else "")
            count = f"{len(running)} guest{'s' if len(running) > 1 else ''}"
            answer = self.ask(ConfirmScreen(f"Quit and end {count}?", loses=f"Running: {names}. They end with the engine.", yes="Quit"))

        async def leave() -> None:
            if answer is None or await answer is True:
                await app.leave(0)

        return leave()


async def _nothing() -> None:
    """What is left to do after a command that did all at once."""


def _files(prefix: str) -> list[str]:
    """Paths that begin so, folders with a slash; the program's own cfg files when nothing is typed yet."""
    if not prefix:
        return [str(path) for path in cfg_files()]
    found = sorted(glob.glob(glob.escape(prefix) + "*/")) + sorted(glob.glob(glob.escape(prefix) + "*.cfg"))
    return found[:200]
