"""A client of the xenstore wire protocol for tests: asks by bytes, reads replies and events apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.dom0.xenstore import Connection, Store, standard_nodes, wire
from emulator.hypervisor.mailbox import Message as ToDomain


@dataclass(frozen=True)
class Message:
    kind: int
    req_id: int
    tx_id: int
    payload: bytes


def parse(data: bytes) -> list[Message]:
    found: list[Message] = []
    while data:
        kind, req_id, tx_id, length = wire.HEADER.unpack_from(data)
        assert len(data) >= wire.HEADER.size + length, "a message was cut"
        found.append(Message(kind, req_id, tx_id, data[16 : 16 + length]))
        data = data[16 + length :]
    return found


class Client:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[tuple[str, str]] = []
        self._req_id = 0

    def ask(self, kind: int, *strings: str | bytes, tx: int = 0, raw: bool = False) -> bytes:
        """The reply's payload; an XS_ERROR is returned as b"!NAME". Strings are NUL-terminated unless `raw`."""
        parts = [one.encode() if isinstance(one, str) else one for one in strings]
        payload = b"\0".join(parts) if raw else b"".join(part + b"\0" for part in parts)
        self._req_id += 1
        self.connection.feed(wire.message(kind, self._req_id, tx, payload))
        replies = self.collect()
        assert len(replies) == 1, replies
        (reply,) = replies
        assert (reply.req_id, reply.tx_id) == (self._req_id, tx)
        if reply.kind == wire.XS_ERROR:
            return b"!" + reply.payload.rstrip(b"\0")
        assert reply.kind == kind
        return reply.payload

    def collect(self) -> list[Message]:
        """Takes all output; events go to `events`, replies are returned."""
        replies: list[Message] = []
        for message in parse(self.connection.take(1 << 20)):
            if message.kind == wire.XS_WATCH_EVENT:
                assert (message.req_id, message.tx_id) == (0, 0)
                path, token, rest = message.payload.split(b"\0")
                assert rest == b""
                self.events.append((path.decode(), token.decode()))
            else:
                replies.append(message)
        return replies

    def heard(self) -> list[tuple[str, str]]:
        """Events since the last call."""
        assert self.collect() == []
        events, self.events = self.events, []
        return events

    def read(self, path: str, tx: int = 0) -> bytes:
        return self.ask(wire.XS_READ, path, tx=tx)

    def write(self, path: str, value: str | bytes, tx: int = 0) -> bytes:
        return self.ask(wire.XS_WRITE, path, value, tx=tx, raw=True)

    def begin(self) -> int:
        return int(self.ask(wire.XS_TRANSACTION_START, "").rstrip(b"\0"))

    def end(self, tx: int, commit: bool = True) -> bytes:
        return self.ask(wire.XS_TRANSACTION_END, "T" if commit else "F", tx=tx)


class Holder:
    """A domain as those who watch its devices see it; `held`: by the calling thread."""

    def __init__(self) -> None:
        self.receivers: dict[str, Callable[[bytes], None]] = {}
        self.held = True
        self.posted: list[ToDomain] = []

    def held_here(self) -> bool:
        return self.held

    def post(self, message: ToDomain) -> None:
        self.posted.append(message)


def nodes(domid: int, name: str = "guest") -> dict[str, str]:
    return standard_nodes(
        domid,
        name=name,
        uuid=f"00000000-0000-0000-0000-{domid:012d}",
        memory_kib=65536,
        maxmem_kib=131072,
        vcpus=1,
        maxvcpus=2,
        console_gfn=0x1005,
        console_port=2,
        store_gfn=0x1004,
        store_port=1,
    )


def introduced(store: Store, domid: int, name: str = "guest") -> Client:
    store.introduce(domid, name, nodes=nodes(domid, name))
    return Client(store.connect(domid))
