"""The engine's end of the control connections: requests to the thread-safe host, notices and console streams back.

One Server serves any number of connections on one event loop. What may wait for a domain runs in threads, a small pool for
each kind of wait, so that nothing slow holds up an overview. Memory is bounded by the protocol's own limits: unanswered
requests, one pending notice a kind and domain, credit of each stream; a peer that does not read is not read from either.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from emulator.control.commands import run_command
from emulator.control.hostapi import HostApi
from emulator.control.messages import (
    Attach,
    ClientRequest,
    CommandReply,
    CommandResult,
    Credit,
    Detach,
    DetailReply,
    EngineReply,
    FrameReply,
    FromClient,
    FromEngine,
    GetDetail,
    GetFrame,
    GetNetworks,
    GetObituary,
    GetOverview,
    GetPackets,
    GetSnapshots,
    GetStorage,
    Goodbye,
    NetworksReply,
    Notices,
    ObituaryReply,
    ObituaryView,
    OverviewReply,
    PacketsReply,
    Progress,
    ReadConsole,
    ReadReply,
    Refused,
    RunCommand,
    SnapshotsReply,
    WriteConsole,
    WriteReply,
)
from emulator.control.protocol import EngineSide, ProtocolError
from emulator.control.storageapi import answer
from emulator.control.streams import ConsoleStream
from emulator.control.views import PARTS
from emulator.errors import UserError, sendable

READ_BYTES: Final = 1 << 16
NOTICE_SECONDS: Final = 0.01
"""Pause after a batch of notices; the first of a quiet time goes out at once."""
MESSAGES_PER_SECOND: Final = 20_000
"""What one client may send before it is made to wait."""
READ_LIMIT: Final = 1 << 20

_Result = TypeVar("_Result")
log = logging.getLogger(__name__)


class Server:
    """All connections of one engine. `host` is awaited by every request, so that clients are greeted before it is up."""

    def __init__(self, host: Awaitable[HostApi], *, version: str = "", on_quit: Callable[[], None] | None = None) -> None:
        self._host_ready = asyncio.ensure_future(host)
        self._version = version
        self._on_quit = on_quit
        self._quick = ThreadPoolExecutor(2, thread_name_prefix="control quick")
        self._slow = ThreadPoolExecutor(6, thread_name_prefix="control slow")
        self.connections: set[Connection] = set()
        self._unlisten: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._noticed: dict[tuple[str, int], None] = {}  # guarded by _lock; insertion order is kept
        self.loop = asyncio.get_running_loop()

    async def host(self) -> HostApi:
        """The host, once it is up. The first to get it begins to listen to its notices."""
        host = await asyncio.shield(self._host_ready)
        if self._unlisten is None:
            self._unlisten = host.listen(self._notice)
        return host

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        connection = Connection(self, reader, writer, EngineSide(self._version))
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)

    async def close(self, reason: str = "") -> None:
        """Say goodbye to all and stop listening; the host is left alone."""
        for connection in tuple(self.connections):
            connection.farewell(reason)
        if self._unlisten is not None:
            self._unlisten()
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)

    def _notice(self, kind: str, domid: int) -> None:
        """From any thread of the host, however often: at most one wake-up of the loop is under way."""
        with self._lock:
            first = not self._noticed
            self._noticed[(kind, domid)] = None
        if first:
            try:
                self.loop.call_soon_threadsafe(self._spread)
            except RuntimeError:
                pass  # the loop is closed: nobody is left to tell

    def _spread(self) -> None:
        with self._lock:
            noticed, self._noticed = self._noticed, {}
        for connection in self.connections:
            connection.notice(noticed)

    async def run(self, slow: bool, call: Callable[..., _Result], *args: object) -> _Result:
        """A blocking call in a thread of the pool for its kind."""
        return await self.loop.run_in_executor(self._slow if slow else self._quick, call, *args)

    def quit(self) -> None:
        if self._on_quit is not None:
            self._on_quit()


class _Turn:
    """A lock, and how many hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Connection:
    """One client."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, side: EngineSide) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._side = side
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[int, ConsoleStream] = {}
        self._order: dict[tuple[str, int], _Turn] = {}
        self._noticed: dict[tuple[str, int], None] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Read until the client is gone or breaks the protocol."""
        self._writer.write(self._side.hello())
        self._spawn(self._push())
        try:
            await self._read()
        except ProtocolError as error:
            log.warning("client dropped: %s", error)
            self.farewell(str(error))
        except OSError as error:
            log.info("client gone: %s", error)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._writer.close()

    async def _read(self) -> None:
        started, count = time.monotonic(), 0
        while data := await self._reader.read(READ_BYTES):
            for message in self._side.receive(data):
                self._take(message)
                count += 1
            now = time.monotonic()
            if count >= MESSAGES_PER_SECOND:
                await asyncio.sleep(max(0.0, started + 1 - now))
            if now - started >= 1:
                started, count = now, 0
            await self._writer.drain()

    def _take(self, message: FromClient) -> None:
        if isinstance(message, ClientRequest):
            self._spawn(self._answer(message))
        elif isinstance(message, Attach):
            stream = self._streams[message.stream] = ConsoleStream(self._side, message, self.send)
            self._spawn(self._stream(message.stream, stream))
        elif isinstance(message, Credit) and (reading := self._streams.get(message.stream)):
            reading.wake()
        elif isinstance(message, Detach) and (leaving := self._streams.get(message.stream)):
            leaving.detach()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, OSError):
            log.error("a connection's task failed", exc_info=error)

    async def send(self, message: FromEngine) -> None:
        """Send, and wait while the client is slow to read. Silent once the connection is closed."""
        if not self._side.closed:
            self._writer.write(self._side.send(message))
            await self._writer.drain()

    def farewell(self, reason: str) -> None:
        """Say why and close; what is under way still goes out."""
        if not self._writer.is_closing():
            self._writer.write(self._side.encode(Goodbye(reason=reason)))
            self._side.closed = True
            self._writer.close()

    def notice(self, noticed: dict[tuple[str, int], None]) -> None:
        """Take notices: wake the streams they concern and have them pushed."""
        for kind, domid in noticed:
            if kind != "log":
                for stream in self._streams.values():
                    if stream.domid == domid:
                        stream.wake(gone=kind == "gone")
        self._noticed.update(noticed)
        self._wake.set()

    async def _push(self) -> None:
        """Push what was noticed, each kind and domain once."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._noticed and self._side.peer is not None:
                noticed, self._noticed = self._noticed, {}
                await self.send(Notices(notices=tuple(noticed)))
                await asyncio.sleep(NOTICE_SECONDS)

    async def _stream(self, number: int, stream: ConsoleStream) -> None:
        try:
            host = await self._server.host()
            await stream.run(host, lambda call, domid: self._server.run(True, call, domid))
        finally:
            del self._streams[number]

    async def _answer(self, request: ClientRequest) -> None:
        """Answer one request, whatever happens."""
        reply: EngineReply
        try:
            reply = await self._reply(request)
        except UserError as error:
            reply = Refused(id=request.id, error=error.line())
        except Exception as error:
            log.exception("%s failed", type(request).__name__)
            reply = Refused(id=request.id, error=f"engine fault: {type(error).__name__}: {sendable(str(error))}", mistake=False)
        try:
            await self.send(reply)
        except (ValueError, OverflowError, TypeError) as error:
            log.exception("the answer to %s does not go over the wire", type(request).__name__)
            await self.send(Refused(id=request.id, error=f"engine fault: {sendable(str(error))}", mistake=False))

    async def _reply(self, request: ClientRequest) -> EngineReply:
        if isinstance(request, RunCommand) and request.name == "quit":
            self._server.loop.call_later(0.05, self._server.quit)  # after the answer
            return CommandReply(id=request.id, result=CommandResult(ok=True, message="the engine ends"))
        host, run = await self._server.host(), self._server.run
        if isinstance(request, GetOverview):
            return OverviewReply(id=request.id, overview=await run(False, host.overview, request.since_log))
        if isinstance(request, GetDetail):
            if unknown := set(request.parts) - set(PARTS):
                raise UserError(f"no part {min(unknown)[:64]!r}", fix=f"known: {', '.join(PARTS)}")
            detail = await run(True, host.detail, request.domid, request.parts, request.since_trace)
            return DetailReply(id=request.id, detail=detail)
        if isinstance(request, GetSnapshots):
            return SnapshotsReply(id=request.id, snapshots=await run(True, host.snapshots, request.domid))
        if isinstance(request, GetFrame):
            return FrameReply(id=request.id, frame=await run(True, host.frame, request.domid, request.pfn))
        if isinstance(request, GetNetworks):
            return NetworksReply(id=request.id, networks=await run(False, host.networks))
        if isinstance(request, GetPackets):
            return PacketsReply(id=request.id, tail=await run(False, host.packets, request.network, request.source, request.since, request.most))
        if isinstance(request, GetStorage):
            return await run(True, answer, host.storage, request)
        if isinstance(request, GetObituary):
            kept = host.obituary(request.domid)
            if kept is None:
                return ObituaryReply(id=request.id)
            view = ObituaryView(domain=kept.domain, reason=kept.reason, crash=kept.crash, restarted_as=kept.restarted_as)
            return ObituaryReply(id=request.id, obituary=view)
        if isinstance(request, WriteConsole):
            return WriteReply(id=request.id, accepted=host.console_write(request.domid, request.data))
        if isinstance(request, ReadConsole):
            limit = max(0, min(request.limit, READ_LIMIT))
            return ReadReply(id=request.id, chunk=host.console_read(request.domid, max(0, request.offset), limit))
        return CommandReply(id=request.id, result=await self._command(host, request))

    async def _command(self, host: HostApi, request: RunCommand) -> CommandResult:
        """Commands on one domain take their turn, in the order they came."""
        domid = request.args.get("domid")
        key = (request.name, -1) if not isinstance(domid, int) else ("", domid)
        turn = self._order.setdefault(key, _Turn())
        turn.users += 1

        def progress(text: str) -> None:  # from the command's thread
            self._server.loop.call_soon_threadsafe(self._spawn_progress, request.id, text[:200])

        try:
            async with turn.lock:
                return await self._server.run(True, run_command, host, request.name, request.args, progress)
        except UserError as error:
            return CommandResult(ok=False, error=error.line(), mistake=True, domid=domid if isinstance(domid, int) else -1)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._order[key]

    def _spawn_progress(self, number: int, text: str) -> None:
        if len(self._tasks) < 200 and not self._side.closed:
            self._spawn(self.send(Progress(id=number, text=text)))
