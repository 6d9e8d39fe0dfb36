"""What a screen may use of the app, and what the app uses of the engine's client.

Screens are written against these two protocols, never against the app's class, so that each can be tested alone with the
fake engine of the tests. `shell(self)` gives a screen or widget the app under its protocol.

Theme variables beside Textual's own, usable as `$name` in any .tcss and through `App.theme_variables`:
`state-running state-blocked state-paused state-down state-crashed` (the five states), `graph graph-low graph-high` (history
lines and gauges), `ok notice trouble` (levels), `dim` (secondary text), `rule` (lines between panes), `mark` (marked rows),
`cursor-row` (background of the chosen row), `changed` (a value that just changed).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol, cast

from textual.dom import DOMNode
from textual.message import Message

from emulator.control.messages import CommandResult
from emulator.control.storageviews import DirectoryView, DiskBlockMap, FileChunk, StoragePoolView
from emulator.control.views import ConsoleChunk, DomainDetail, Overview, SnapshotView
from xenconsole.flow_history import FlowBook
from xenconsole.rates import Rates
from xenconsole.settings import Settings


class Storage(Protocol):
    """The storage pool as the console sees it (emulator.control.storageapi.StorageClient)."""

    async def pool(self) -> StoragePoolView: ...
    async def block_map(self, disk: str, cells: int = 4096) -> DiskBlockMap: ...
    async def directory(self, disk: str, path: str = "/") -> DirectoryView: ...
    async def read(self, disk: str, offset: int, size: int, path: str = "") -> FileChunk: ...


class Client(Protocol):
    """The engine as the console sees it (emulator.control.client.EngineClient). Raises ConnectionError when it is lost."""

    @property
    def lost(self) -> str:
        """Empty while the engine lives, else one line saying why it does not."""

    @property
    def storage(self) -> Storage: ...

    async def overview(self, since_log: int = 0) -> Overview: ...
    async def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail: ...
    async def snapshots(self, domid: int) -> tuple[SnapshotView, ...]: ...
    async def command(self, name: str, /, *, progress: Callable[[str], None] | None = None, **args: bool | int | str | bytes) -> CommandResult: ...
    async def console_write(self, domid: int, data: bytes) -> object: ...
    async def console_read(self, domid: int, offset: int, limit: int = 65536) -> ConsoleChunk: ...
    def console_attach(self, domid: int, offset: int) -> AsyncIterator[ConsoleChunk]:
        """Chunks from `offset` on as they come; ends when the domain is gone."""

    def on_event(self, callback: Callable[[str, int], None]) -> Callable[[], None]:
        """Calls back on the event loop with (kind, domid): console, state, gone, storage, log, lost. Returns what ends it."""

    async def close(self) -> None: ...


class OverviewArrived(Message, bubble=False):
    """A new overview is in `app.overview` and `app.rates`; posted to the screen in front after every tick."""

    def __init__(self, overview: Overview) -> None:
        super().__init__()
        self.overview = overview

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, OverviewArrived)


class EngineNotice(Message, bubble=False):
    """The engine's pushed notice: kind is console, state, gone, storage, log or lost. Posted to the screen in front."""

    def __init__(self, kind: str, domid: int) -> None:
        super().__init__()
        self.kind = kind
        self.domid = domid

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, EngineNotice) and (message.kind, message.domid) == (self.kind, self.domid)


class Shell(Protocol):
    """The app as its screens see it."""

    client: Client
    overview: Overview
    """The latest one, never None: an empty Overview before the first tick."""
    rates: Rates
    """Per-second rates and history of every domain, by domid."""
    flows: FlowBook
    """What flowed through devices and networks, as far as it was looked at."""
    read_only: bool

    settings: Settings

    async def run_command(self, name: str, /, **args: str | int | bool) -> CommandResult:
        """Run one command of the table: logs its xl line, refuses in read-only mode, asks for what needs confirmation
        (call it from a worker, since it may wait for a dialog), notifies of errors."""

    def switch_console(self, domid: int) -> None:
        """Bring that domain's console to the front. Console screens are kept (suspended) while their domain lives,
        so that their terminal and scrollback survive a detach; they get ScreenSuspend and ScreenResume."""

    def open_domain(self, domid: int, tab: str = "") -> None:
        """Bring the domain screen to the front; `tab` names one of its tabs, the screen's `show_tab(tab)` is called."""

    def back(self) -> None:
        """Leave the screen in front for the one below it; nothing on the lowest."""


def shell(node: DOMNode) -> Shell:
    """The app of a mounted screen or widget."""
    return cast(Shell, node.app)
