"""The engine as its users see it: an asyncio client of the control protocol, and the engine's process when we started it.

Nothing here blocks the event loop. When the engine is lost every waiting call raises ConnectionError and `lost` says why in one
line; a command is answered with that line instead.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

from emulator.control.consolereader import ConsoleReader
from emulator.control.memoryviews import FrameView
from emulator.control.messages import (
    Argument,
    ClientRequest,
    CommandReply,
    CommandResult,
    Credit,
    Detach,
    DetailReply,
    FrameReply,
    FromEngine,
    GetDetail,
    GetFrame,
    GetNetworks,
    GetObituary,
    GetOverview,
    GetPackets,
    GetSnapshots,
    Goodbye,
    Message,
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
    Reply,
    RunCommand,
    SnapshotsReply,
    StreamData,
    StreamEnd,
    WriteConsole,
    WriteReply,
)
from emulator.control.networkviews import NetworksView, PacketTail
from emulator.control.process import EngineOptions, EngineProcess
from emulator.control.protocol import MAX_PENDING, ClientSide, ProtocolError
from emulator.control.storageapi import StorageClient
from emulator.control.views import ConsoleChunk, DomainDetail, Overview, SnapshotView
from emulator.errors import UserError

READ_BYTES = 1 << 18
STREAM_WINDOW = 1 << 18
"""Bytes of a console stream under way or unread."""
WRITE_BYTES = 1 << 14
"""Typed bytes sent in one request."""
HELLO_SECONDS = 30.0
CLOSE_SECONDS = 5.0


class EngineClient:
    """A connection to an engine. Made by `start_engine` or `connect`; `close()` ends it and, if we started it, the engine."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, process: EngineProcess | None = None, version: str = ""
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._process = process
        self._side = ClientSide(version)
        self.storage = StorageClient(self._ask, self._side.next_id)
        self._slots = asyncio.Semaphore(MAX_PENDING)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._progress: dict[int, Callable[[str], None]] = {}
        self._streams: dict[int, ConsoleReader] = {}
        self._typing: dict[int, asyncio.Lock] = {}
        self._callbacks: list[Callable[[str, int], None]] = []
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._goodbye = ""
        self._lost = ""
        self._closing = False
        self._pump = asyncio.create_task(self._receive(), name="engine client")

    @property
    def lost(self) -> str:
        """Empty while the engine lives, else one line saying why it does not."""
        return self._lost

    @property
    def engine_pid(self) -> int:
        return self._side.peer.pid if self._side.peer else 0

    def on_event(self, callback: Callable[[str, int], None]) -> Callable[[], None]:
        """Have notices told: callback(kind, domid) on the event loop; kind is console, state, gone, storage, log, or lost (domid -1).

        Returns the function that ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    async def overview(self, since_log: int = 0) -> Overview:
        reply = await self._ask(GetOverview(id=self._side.next_id(), since_log=since_log))
        assert isinstance(reply, OverviewReply)
        return reply.overview

    async def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        """The parts of a domain (views.PARTS). Raises UserError when there is no such domain."""
        reply = await self._ask(GetDetail(id=self._side.next_id(), domid=domid, parts=parts, since_trace=since_trace))
        assert isinstance(reply, DetailReply)
        return reply.detail

    async def snapshots(self, domid: int) -> tuple[SnapshotView, ...]:
        reply = await self._ask(GetSnapshots(id=self._side.next_id(), domid=domid))
        assert isinstance(reply, SnapshotsReply)
        return reply.snapshots

    async def frame(self, domid: int, pfn: int) -> FrameView:
        """One frame of a domain and who maps it. Raises UserError when there is no such domain or frame."""
        reply = await self._ask(GetFrame(id=self._side.next_id(), domid=domid, pfn=pfn))
        assert isinstance(reply, FrameReply)
        return reply.frame

    async def networks(self) -> NetworksView:
        """All virtual networks and the interfaces on them."""
        reply = await self._ask(GetNetworks(id=self._side.next_id()))
        assert isinstance(reply, NetworksReply)
        return reply.networks

    async def packets(self, network: str, source: str = "", since: int = 0, most: int = 100) -> PacketTail:
        """The last frames of a network, or of its port `source` (vif3.0), after number `since`. Raises UserError for no such network."""
        reply = await self._ask(GetPackets(id=self._side.next_id(), network=network, source=source, since=since, most=most))
        assert isinstance(reply, PacketsReply)
        return reply.tail

    async def obituary(self, domid: int) -> ObituaryView | None:
        """What is kept of a domain that is gone; None while it lives or when nothing is known of it."""
        reply = await self._ask(GetObituary(id=self._side.next_id(), domid=domid))
        assert isinstance(reply, ObituaryReply)
        return reply.obituary

    async def command(
        self, verb: str, /, *, progress: Callable[[str], None] | None = None, **args: Argument | bytes
    ) -> CommandResult:
        """Run a command (commands.COMMANDS has names and arguments). Never raises for the user's, guest's or engine's faults.

        `progress` is told in a few words what is being done, when the command says so."""
        request = RunCommand(id=self._side.next_id(), name=verb, args=self._located(args))
        if progress is not None:
            self._progress[request.id] = progress
        try:
            reply = await self._ask(request)
        except UserError as error:
            return CommandResult(ok=False, error=error.line(), mistake=True)
        except (ConnectionError, EngineFault, ValueError) as error:
            return CommandResult(ok=False, error=str(error))
        finally:
            self._progress.pop(request.id, None)
        assert isinstance(reply, CommandReply)
        return reply.result

    def _located(self, args: dict[str, Argument | bytes]) -> dict[str, Argument]:
        """Arguments as the engine takes them: text for bytes, and a file's path as the engine will find it, since relative
        ones hold only where both have the same current folder."""
        plain = {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in args.items()}
        file = plain.get("file")
        if isinstance(file, str) and file and self._side.peer is not None and self._side.peer.cwd != os.getcwd():
            plain["file"] = os.path.abspath(file)
        return plain

    async def console_write(self, domid: int, data: bytes, *, patience: float = 1.0) -> int:
        """Type to a guest. Returns the bytes taken: all of them, or fewer when it has read nothing for `patience` seconds.

        The input queue of a domain is bounded; a longer text goes in as the guest reads. Texts of several callers don't mix."""
        lock = self._typing.setdefault(domid, asyncio.Lock())
        async with lock:
            sent, waited, pause = 0, 0.0, 0.005
            while sent < len(data):
                taken = await self._type(domid, data[sent : sent + WRITE_BYTES])
                sent += taken
                if taken:
                    waited, pause = 0.0, 0.005
                    continue
                if waited >= patience:
                    break
                await asyncio.sleep(pause)
                waited, pause = waited + pause, min(pause * 2, 0.1)
            return sent

    async def _type(self, domid: int, data: bytes) -> int:
        reply = await self._ask(WriteConsole(id=self._side.next_id(), domid=domid, data=data))
        assert isinstance(reply, WriteReply)
        return min(max(reply.accepted, 0), len(data))

    async def console_read(self, domid: int, offset: int, limit: int = 65536) -> ConsoleChunk:
        """Console output from byte `offset` on, at most `limit` bytes; it begins later where the transcript is cut."""
        reply = await self._ask(ReadConsole(id=self._side.next_id(), domid=domid, offset=offset, limit=limit))
        assert isinstance(reply, ReadReply)
        return reply.chunk

    async def console_attach(self, domid: int, offset: int = 0, *, hold: bool = False) -> AsyncGenerator[ConsoleChunk, None]:
        """Chunks from `offset` on as they come; ends when the domain is gone and all it said was given.

        A slow reader costs the engine nothing: with `hold` the domain waits for it, without it the reader misses output.
        Raises UserError when there is no such domain, ConnectionError when the engine is lost."""
        if self._lost or self._closing:
            raise ConnectionError(self._lost or "the connection is closed")
        number, frame = self._side.attach(domid, offset, STREAM_WINDOW, hold=hold)
        stream = self._streams[number] = ConsoleReader()
        self._writer.write(frame)
        try:
            read = 0
            while (chunk := await stream.next()) is not None:
                yield chunk
                read += len(chunk.data)
                if read >= STREAM_WINDOW // 8:
                    self._tell(Credit(stream=number, amount=read), number)
                    read = 0
        finally:
            self._tell(Detach(stream=number), number)
            self._streams.pop(number, None)

    def _tell(self, message: Credit | Detach, stream: int) -> None:
        if stream in self._side.streams and not self._lost and not self._writer.is_closing():
            self._writer.write(self._side.send(message))

    async def _ask(self, request: ClientRequest) -> Message:
        """Send a request and wait for its answer. Raises ConnectionError, UserError (our user's fault) or EngineFault."""
        await self._slots.acquire()
        try:
            if self._lost or self._closing:
                raise ConnectionError(self._lost or "the connection is closed")
            frame = self._side.send(request)
        except BaseException:
            self._slots.release()
            raise
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._slots.release())  # not sooner, if its asker is cancelled: the engine counts it
        self._answers[request.id] = answer
        self._writer.write(frame)
        await self._drain()
        reply = await asyncio.shield(answer)
        if isinstance(reply, Refused):
            raise UserError(reply.error) if reply.mistake else EngineFault(reply.error)
        return reply

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            pass  # the receiving side tells of it, with the reason

    async def _receive(self) -> None:
        reason = ""
        try:
            while data := await self._reader.read(READ_BYTES):
                for message in self._side.receive(data):
                    self._take(message)
                if self._side.peer is not None and not self._greeted.done():
                    self._greeted.set_result(None)
                if self._side.closed:
                    break
        except ProtocolError as error:
            reason = f"the engine broke the control protocol: {error}"
        except OSError as error:
            reason = f"the connection to the engine broke: {error.strerror or error}"
        await self._lose(reason)

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Reply):
            answer = self._answers.pop(message.id, None)
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif isinstance(message, StreamData):
            if stream := self._streams.get(message.stream):
                stream.put(message.chunk)
        elif isinstance(message, StreamEnd):
            if stream := self._streams.get(message.stream):
                stream.end(UserError(message.error) if message.error else None)
        elif isinstance(message, Notices):
            for kind, domid in message.notices:
                if kind == "gone" and (lock := self._typing.get(domid)) is not None and not lock.locked():
                    del self._typing[domid]
                self._notify(kind, domid)
        elif isinstance(message, Progress):
            if told := self._progress.get(message.id):
                told(message.text)
        elif isinstance(message, Goodbye):
            self._goodbye = message.reason

    def _notify(self, kind: str, domid: int) -> None:
        for callback in tuple(self._callbacks):
            callback(kind, domid)

    async def _lose(self, reason: str) -> None:
        """The connection is gone: find out why, then fail all who wait."""
        self._writer.close()
        if self._goodbye:
            reason = self._goodbye  # what it said last says it all
        elif self._process is not None and not self._closing:
            status = await self._process.epitaph()
            reason = ": ".join(part for part in (reason, status) if part)
        self._lost = reason or ("the engine was ended" if self._closing else "the engine closed the connection")
        error = ConnectionError(self._lost)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # seen: its asker may be gone
        self._answers.clear()
        for stream in self._streams.values():
            stream.end(error)
        if not self._greeted.done():
            self._greeted.set_exception(error)
            self._greeted.exception()
        if not self._closing:
            self._notify("lost", -1)

    async def greeted(self) -> None:
        """Wait for the engine's hello. Raises ConnectionError when it does not come."""
        self._writer.write(self._side.hello())
        try:
            await asyncio.wait_for(asyncio.shield(self._greeted), HELLO_SECONDS)
        except TimeoutError as error:
            raise ConnectionError(f"the engine said nothing for {HELLO_SECONDS:.0f} s") from error

    async def close(self) -> None:
        """Leave the engine; one that we started destroys its domains and ends. Returns when it has."""
        self._closing = True
        self._writer.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._pump), CLOSE_SECONDS)
        except TimeoutError:
            self._pump.cancel()
        if self._process is not None:
            await self._process.end()


class EngineFault(Exception):
    """The engine could not answer a request through a fault of ours; its log has more."""


NO_ANSWER: Final = (ConnectionError, UserError, EngineFault)
"""What a question may come back with instead of an answer: the engine is lost, the domain is gone, a fault of ours."""


async def start_engine(options: EngineOptions | None = None, *, version: str = "") -> EngineClient:
    """Start an engine as a process of its own and connect to it. Raises ConnectionError, with what the engine left, when it does not come up."""
    try:
        process, end = EngineProcess.start(options)
    except OSError as error:
        raise ConnectionError(f"the engine cannot be started: {error.strerror or error}") from error
    return await open_client(end, process, version)


async def connect(path: Path, *, version: str = "") -> EngineClient:
    """Connect to the engine that listens on the Unix socket `path`. Raises UserError when none does."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.connect(str(path))
    except OSError as error:
        end.close()
        raise UserError("no engine answers", where=str(path), why=error.strerror or str(error)) from error
    return await open_client(end, None, version)


async def open_client(end: socket.socket, process: EngineProcess | None = None, version: str = "") -> EngineClient:
    """A client on our end of a connected socket, greeted. Raises ConnectionError when no engine answers there."""
    end.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=READ_BYTES)
    client = EngineClient(reader, writer, process, version)
    try:
        await client.greeted()
    except BaseException:
        await client.close()
        raise
    return client
