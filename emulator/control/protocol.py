"""The control protocol as two state machines: bytes in, messages out, no I/O and no clock.

A frame is a four-byte big-endian length and that many bytes of one MessagePack message (`messages.py`). Both sides say
`Hello` first and nothing else counts until it came. Everything is bounded: the length of a frame, the requests a client may
leave unanswered, its streams and the credit of each. Whatever breaks a rule raises ProtocolError once and closes the machine
for good: there is no resynchronising with a peer that cannot count.

    side = ClientSide(version="1.0")          side = EngineSide(version="1.0")
    transport.write(side.hello())             transport.write(side.hello())
    for message in side.receive(data): ...    for message in side.receive(data): ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from emulator.control.messages import (
    MAGIC,
    PROTOCOL_VERSION,
    Attach,
    Credit,
    Detach,
    FromClient,
    FromEngine,
    Goodbye,
    Hello,
    Message,
    Reply,
    Request,
    StreamData,
    StreamEnd,
)  # fmt: skip
from emulator.control.views import VIEW_VERSION

HEADER_BYTES = 4
MAX_FROM_CLIENT = 1 << 20
"""Longest frame a client may send: a cfg text or a paste."""
MAX_FROM_ENGINE = 8 << 20
"""Longest frame an engine may send: an overview of thousands of domains."""
MAX_PENDING = 64
"""Requests a client may have unanswered."""
MAX_STREAMS = 256
MAX_CREDIT = 4 << 20
"""Bytes a stream may have on credit."""

_Inbound = TypeVar("_Inbound", bound=Message)


class ProtocolError(Exception):
    """The peer broke a rule of the protocol; the connection is of no more use."""


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it was removed


class FrameDecoder:
    """Cuts a byte stream into frames. Holds at most one frame and what one read brought beyond it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Frames completed by `data`. Raises ProtocolError for a length of 0 or beyond the limit, before its bytes come."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= HEADER_BYTES:
                length = int.from_bytes(self._buffer[start : start + HEADER_BYTES], "big")
                if not 0 < length <= self._limit:
                    raise ProtocolError(f"frame of {length} bytes; allowed are 1 to {self._limit}")
                end = start + HEADER_BYTES + length
                if len(self._buffer) < end:
                    return
                frame = bytes(self._buffer[start + HEADER_BYTES : end])
                start = end
                yield frame
        finally:
            del self._buffer[:start]

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)


class _Side:
    """What both sides share: hello, encoding, the closed state."""

    role = ""
    peer_role = ""
    send_limit = 0

    def __init__(self, version: str = "") -> None:
        self._version = version
        self._encoder = msgspec.msgpack.Encoder()
        self.peer: Hello | None = None
        """The peer's hello, None until it came."""
        self.closed = False

    def hello(self) -> bytes:
        """The bytes to send first."""
        hello = Hello(
            magic=MAGIC, protocol=PROTOCOL_VERSION, views=VIEW_VERSION, role=self.role, version=self._version, pid=os.getpid(),
            cwd=_cwd(),
        )  # fmt: skip
        return self.encode(hello)

    def encode(self, message: Message) -> bytes:
        """One message as a frame. Raises ValueError when it is too long to send."""
        body = self._encoder.encode(message)
        if len(body) > self.send_limit:
            raise ValueError(f"{type(message).__name__} of {len(body)} bytes; a frame holds {self.send_limit}")
        return len(body).to_bytes(HEADER_BYTES, "big") + body

    def _greeted(self, message: object) -> bool:
        """True for the peer's hello, which is consumed here. Raises ProtocolError when it does not suit."""
        if self.peer is not None:
            if isinstance(message, Hello):
                raise ProtocolError("a second hello")
            return False
        if not isinstance(message, Hello):
            if isinstance(message, Goodbye):
                return False  # a peer that cannot start says why before any hello
            raise ProtocolError("the first message is no hello")
        if message.magic != MAGIC or message.role != self.peer_role:
            raise ProtocolError(f"the peer is no xenconsole {self.peer_role}")
        if (message.protocol, message.views) != (PROTOCOL_VERSION, VIEW_VERSION):
            raise ProtocolError(
                f"the {self.peer_role} speaks version {message.protocol}.{message.views} of the control protocol,"
                f" this {self.role} {PROTOCOL_VERSION}.{VIEW_VERSION}"
            )
        self.peer = message
        return True

    def _admit(self, message: Message) -> bool:
        """Keep the books; False for a message about a stream that has ended meanwhile. Raises ProtocolError."""
        raise NotImplementedError

    def _admitted(self, frames: FrameDecoder, decoder: msgspec.msgpack.Decoder[_Inbound], data: bytes) -> Iterator[_Inbound]:
        for message in self._decoded(frames, decoder, data):
            try:
                relevant = self._admit(message)
            except ProtocolError:
                self.closed = True
                raise
            if relevant:
                yield message

    def _decoded(
        self, frames: FrameDecoder, decoder: msgspec.msgpack.Decoder[_Inbound], data: bytes
    ) -> Iterator[_Inbound]:
        if self.closed:
            raise ProtocolError("the connection is closed")
        try:
            for frame in frames.feed(data):
                try:
                    message = decoder.decode(frame)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise ProtocolError(f"a message that does not decode: {error}") from error
                if not self._greeted(message):
                    yield message
                    if isinstance(message, Goodbye):
                        self.closed = True
                        return
        except ProtocolError:
            self.closed = True
            raise


@dataclass
class StreamState:
    """Where a stream stands, as either side counts it."""

    domid: int
    credit: int
    """Bytes that may still be sent."""


class EngineSide(_Side):
    """The engine's end: decodes requests, counts what is unanswered, keeps streams within their credit."""

    role = "engine"
    peer_role = "client"
    send_limit = MAX_FROM_ENGINE

    def __init__(self, version: str = "") -> None:
        super().__init__(version)
        self._frames = FrameDecoder(MAX_FROM_CLIENT)
        self._decoder: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
        self._pending: set[int] = set()
        self.streams: dict[int, StreamState] = {}

    def receive(self, data: bytes) -> Iterator[FromClient]:
        """Messages completed by `data`. Raises ProtocolError; what came before the error is yielded first."""
        return self._admitted(self._frames, self._decoder, data)

    def _admit(self, message: Message) -> bool:
        if isinstance(message, Request):
            if message.id in self._pending:
                raise ProtocolError(f"request {message.id} while one of that number is unanswered")
            if len(self._pending) >= MAX_PENDING:
                raise ProtocolError(f"more than {MAX_PENDING} unanswered requests")
            self._pending.add(message.id)
        elif isinstance(message, Attach):
            if message.stream in self.streams:
                raise ProtocolError(f"stream {message.stream} is open already")
            if len(self.streams) >= MAX_STREAMS:
                raise ProtocolError(f"more than {MAX_STREAMS} streams")
            self.streams[message.stream] = StreamState(message.domid, self._credit(0, message.credit))
        elif isinstance(message, Credit):
            stream = self.streams.get(message.stream)
            if stream is None:
                return False
            stream.credit = self._credit(stream.credit, message.amount)
        elif isinstance(message, Detach):
            return self.streams.pop(message.stream, None) is not None
        elif isinstance(message, Goodbye):
            self.closed = True
        return True

    @staticmethod
    def _credit(have: int, more: int) -> int:
        if more < 0 or have + more > MAX_CREDIT:
            raise ProtocolError(f"credit of {have + more} bytes; a stream may have {MAX_CREDIT}")
        return have + more

    def send(self, message: FromEngine) -> bytes:
        """The frame for a message. Raises ValueError for one that is too long, and for a stream beyond its credit."""
        data = self.encode(message)
        if isinstance(message, Reply):
            self._pending.discard(message.id)
        elif isinstance(message, StreamData):
            stream = self.streams.get(message.stream)
            if stream is None or len(message.chunk.data) > stream.credit:
                raise ValueError(f"stream {message.stream} has no credit for {len(message.chunk.data)} bytes")
            stream.credit -= len(message.chunk.data)
        elif isinstance(message, StreamEnd):
            self.streams.pop(message.stream, None)
        elif isinstance(message, Goodbye):
            self.closed = True
        return data

    @property
    def pending(self) -> int:
        """Requests not answered yet."""
        return len(self._pending)


class ClientSide(_Side):
    """The client's end: numbers requests and streams, checks that replies and stream data were asked for."""

    role = "client"
    peer_role = "engine"
    send_limit = MAX_FROM_CLIENT

    def __init__(self, version: str = "") -> None:
        super().__init__(version)
        self._frames = FrameDecoder(MAX_FROM_ENGINE)
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._pending: set[int] = set()
        self._last_id = 0
        self._last_stream = 0
        self.streams: dict[int, StreamState] = {}

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def attach(self, domid: int, offset: int, credit: int, *, hold: bool = False) -> tuple[int, bytes]:
        """Open a stream: its number and the frame to send."""
        self._last_stream += 1
        stream = self._last_stream
        data = self.encode(Attach(stream=stream, domid=domid, offset=offset, credit=credit, hold=hold))
        self.streams[stream] = StreamState(domid, credit)
        return stream, data

    def send(self, message: FromClient) -> bytes:
        """The frame for a message. Raises ValueError for one that is too long or when too many requests are unanswered."""
        if isinstance(message, Request) and len(self._pending) >= MAX_PENDING:
            raise ValueError(f"more than {MAX_PENDING} unanswered requests")
        data = self.encode(message)
        if isinstance(message, Request):
            self._pending.add(message.id)
        elif isinstance(message, Credit) and message.stream in self.streams:
            self.streams[message.stream].credit += message.amount
        elif isinstance(message, Detach):
            self.streams.pop(message.stream, None)
        return data

    def receive(self, data: bytes) -> Iterator[FromEngine]:
        """Messages completed by `data`; data of streams closed meanwhile is dropped. Raises ProtocolError."""
        return self._admitted(self._frames, self._decoder, data)

    def _admit(self, message: Message) -> bool:
        if isinstance(message, Reply):
            if message.id not in self._pending:
                raise ProtocolError(f"a reply to request {message.id}, which is not open")
            self._pending.discard(message.id)
        elif isinstance(message, StreamData):
            if not 0 < message.stream <= self._last_stream:
                raise ProtocolError(f"data of stream {message.stream}, which never was")
            stream = self.streams.get(message.stream)
            if stream is None:
                return False
            stream.credit -= len(message.chunk.data)
            if stream.credit < 0:
                raise ProtocolError(f"stream {message.stream} sent more than its credit")
        elif isinstance(message, StreamEnd):
            return self.streams.pop(message.stream, None) is not None
        return True
