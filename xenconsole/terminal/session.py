"""One guest's console: its stream from the first byte, parsed into a terminal core, and what is typed to it.

A session takes chunks as they come and keeps them unparsed (`backlog`) until the hub gives it time (`advance`). A guest
that speaks faster than it is parsed loses the oldest of its backlog, and a line in its place says how much: nothing is
dropped in silence. The same line stands where the engine's transcript had been cut before we read it.

Answers of the terminal (device attributes, cursor position) are sent only for output that came while we listened: a question
in the old transcript was asked long ago, and an answer now would be typed into whatever runs there today.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, cast, runtime_checkable

from emulator.control.client import NO_ANSWER
from emulator.control.views import ConsoleChunk, DomainView
from xenconsole.app_protocol import Client
from xenconsole.terminal.bittty_core import BitttyCore
from xenconsole.terminal.core import TerminalCore
from xenconsole.terminal.serial_line import Serial, pieces

BACKLOG_BYTES = 512 << 10
"""Unparsed output kept; above it the oldest half goes. A fraction of a second of parsing, so that a flood stays near live."""
PIECE_BYTES = 1024
"""Bytes parsed between two looks at the clock."""
TYPED_BYTES = 2 << 20
"""Typed bytes waiting for the guest; the input of one that never reads is refused beyond it."""
RETRY_SECONDS = 0.2
ECHO_SECONDS = 1.0
"""A guest is taken to be typed to for so long after a key."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of output that are not shown."""

    size: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a guest's console ended. `successor` is the domid of the domain restarted in its place, -1 when there is none."""

    reason: str
    successor: int = -1


class _Obituary(Protocol):
    @property
    def domain(self) -> DomainView: ...
    @property
    def reason(self) -> str: ...
    @property
    def restarted_as(self) -> int: ...


@runtime_checkable
class Mourner(Protocol):
    """A client that tells what became of a domain (EngineClient does)."""

    async def obituary(self, domid: int) -> _Obituary | None: ...


class _Typist(Protocol):
    """A client that says how many bytes a guest took (None: all of them)."""

    async def console_write(self, domid: int, data: bytes) -> int | None: ...


def size_text(size: int) -> str:
    """Bytes for people: 900 B, 3.2 KiB, 1.0 MiB."""
    if size < 1024:
        return f"{size} B"
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


class ConsoleSession:
    """A guest's console. `start()` begins the stream; listeners are told of rows that changed, and of None when the
    session's state did (it ended, its title changed)."""

    def __init__(self, client: Client, domid: int, *, core: TerminalCore | None = None) -> None:
        self.client = client
        self.domid = domid
        self.core: TerminalCore = core or BitttyCore()
        self.ending: Ending | None = None
        self.lost_bytes = 0
        self._backlog: deque[bytes | Gap] = deque()
        self._backlog_bytes = 0
        self._received = -1  # offset after the newest byte taken, -1 before the first chunk
        self._parsed = 0  # offset after the newest byte parsed
        self._live_from = 0
        self._listeners: list[Callable[[frozenset[int] | None], None]] = []
        self._wake: Callable[[], None] = lambda: None
        self._typed = bytearray()
        self._typing = asyncio.Event()
        self._typed_at = -ECHO_SECONDS
        self._tasks: list[asyncio.Task[None]] = []

    # life

    def start(self, wake: Callable[[], None] = lambda: None) -> None:
        """Begin to stream; `wake` is called when there is something to parse."""
        self._wake = wake
        self._tasks = [
            asyncio.create_task(self._receive(), name=f"console {self.domid}"),
            asyncio.create_task(self._write(), name=f"typing {self.domid}"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def listen(self, callback: Callable[[frozenset[int] | None], None]) -> Callable[[], None]:
        """Have changes told; returns the function that ends it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def _tell(self, dirty: frozenset[int] | None) -> None:
        for callback in tuple(self._listeners):
            callback(dirty)

    # output of the guest

    async def _receive(self) -> None:
        reason = ""
        try:
            async for chunk in self.client.console_attach(self.domid, 0):
                self.take(chunk)
        except NO_ANSWER as error:
            reason = str(error)
        self.ending = await self._cause(reason)
        self._typed.clear()
        if self._tasks:
            self._tasks[1].cancel()
        self._wake()
        self._tell(None)

    async def _cause(self, reason: str) -> Ending:
        lost = self.client.lost
        if lost:
            return Ending(f"engine lost: {lost}")
        if isinstance(self.client, Mourner):
            try:
                obituary = await self.client.obituary(self.domid)
            except NO_ANSWER as error:
                return Ending(reason or str(error))
            if obituary is not None:
                crash = obituary.domain.crash
                return Ending(f"crash: {crash}" if crash else obituary.reason, obituary.restarted_as)
        return Ending(reason)

    def take(self, chunk: ConsoleChunk) -> None:
        """A chunk of the stream. One that begins past what was received leaves a gap, one that begins before it (the domain
        was restored) starts anew."""
        if self._received < 0:
            self._received = 0
            self._live_from = chunk.end
        if chunk.offset != self._received:
            self._backlog.append(Gap(chunk.offset - self._received))
            if chunk.offset < self._received:
                self._live_from = min(self._live_from, chunk.offset)
        self._received = chunk.offset + len(chunk.data)
        for data in pieces(chunk):
            self._backlog.append(data)
            self._backlog_bytes += len(data)
        if self._backlog_bytes > BACKLOG_BYTES:
            self._drop(BACKLOG_BYTES // 2)
        self._wake()

    def _drop(self, keep: int) -> None:
        """Leave only the newest `keep` bytes of the backlog, from the start of a line when there is one near."""
        dropped = 0
        while self._backlog_bytes > keep:
            item = self._backlog.popleft()
            if isinstance(item, Gap):
                dropped += max(item.size, 0)
                continue
            self._backlog_bytes -= len(item)
            rest = item[-(keep - self._backlog_bytes) :] if self._backlog_bytes < keep else b""
            newline = rest.find(b"\n", 0, 4096)
            rest = type(item)(rest[newline + 1 :])
            dropped += len(item) - len(rest)
            if rest:
                self._backlog.appendleft(rest)
                self._backlog_bytes += len(rest)
                break
        self._backlog.appendleft(Gap(dropped))

    @property
    def pending(self) -> int:
        """Bytes (and gaps) that wait to be parsed."""
        return self._backlog_bytes + len(self._backlog)

    def advance(self, seconds: float) -> bool:
        """Parse for at most `seconds`, at least one piece; tells the listeners. False when there was nothing to do."""
        if not self._backlog:
            return False
        title = self.core.title
        end = perf_counter() + seconds
        while self._backlog:
            self._step()
            if perf_counter() >= end:
                break
        dirty = self.core.take_dirty()
        if self.core.title != title:
            self._tell(None)
        self._tell(dirty)
        return True

    def _step(self) -> None:
        item = self._backlog.popleft()
        if isinstance(item, Gap):
            self._mark(item)
            return
        piece, rest = item[:PIECE_BYTES], item[PIECE_BYTES:]
        if rest:
            self._backlog.appendleft(type(item)(rest))
        self._backlog_bytes -= len(piece)
        self._parsed += len(piece)
        self.core.feed(piece.replace(b"\n", b"\r\n") if isinstance(item, Serial) else piece)
        replies = self.core.take_replies()
        if replies and self._parsed > self._live_from:
            self._put(replies)

    def _mark(self, gap: Gap) -> None:
        self._parsed += gap.size
        if gap.size > 0:
            self.lost_bytes += gap.size
            self.core.interrupt(f"{size_text(gap.size)} of output not shown")
        else:
            self.core.interrupt("the domain went back to an earlier moment")

    # input to the guest

    def type(self, data: bytes) -> bool:
        """Type to the guest; False when it is gone or has not read what is already waiting."""
        self._typed_at = perf_counter()
        return self._put(data)

    @property
    def typed_to(self) -> bool:
        """Whether somebody types to it: what it says next may be the echo."""
        return perf_counter() - self._typed_at < ECHO_SECONDS

    def _put(self, data: bytes) -> bool:
        if self.ending is not None or len(self._typed) + len(data) > TYPED_BYTES:
            return False
        self._typed += data
        self._typing.set()
        return True

    async def _write(self) -> None:
        while True:
            await self._typing.wait()
            self._typing.clear()
            while self._typed:
                data = bytes(self._typed[:16384])
                try:
                    taken = await cast(_Typist, self.client).console_write(self.domid, data)
                except NO_ANSWER:  # most often the guest or the engine is gone: the stream's end says so
                    self._typed.clear()
                    break
                taken = len(data) if taken is None else taken
                del self._typed[:taken]
                if taken < len(data):
                    await asyncio.sleep(RETRY_SECONDS)
