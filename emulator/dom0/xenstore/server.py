"""One client's connection as a state machine: request bytes in, reply and event bytes out, no thread and no socket.

Answers follow tools/xenstore/xenstored_core.c. A request that means nothing gets an XS_ERROR; a payload longer than the
protocol allows breaks the connection, since the stream has no next message to find. A client that asks without reading
its replies is not listened to further (`room` is 0) until it reads; events it does not read are kept once each, up to a
bound, and counted in `events_lost` beyond it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emulator.dom0.xenstore import control, domainrequests, wire
from emulator.dom0.xenstore.holdings import Account, ConnectionState
from emulator.dom0.xenstore.quotas import ClientBounds
from emulator.dom0.xenstore.transaction import Transaction
from emulator.dom0.xenstore.tree import READ, Node, parse_perm, valid_path
from emulator.dom0.xenstore.watches import Watch
from emulator.dom0.xenstore.wire import HEADER, XENSTORE_PAYLOAD_MAX, RefusedError

if TYPE_CHECKING:
    from emulator.dom0.xenstore.store import Store

EVENT_BYTES_HELD: Final = 256 * 1024
INPUT_BYTES_HELD: Final = HEADER.size + XENSTORE_PAYLOAD_MAX

_OK: Final = b"OK\0"


class Connection:
    """`bounds`: of a client on the socket; a guest is bound by the store's quotas, Domain-0's own backends by nothing."""

    def __init__(self, store: Store, domid: int, serial: int, bounds: ClientBounds | None = None) -> None:
        self.store = store
        self.domid = domid
        self.serial = serial
        self.bounds = bounds
        self.released = False  # XS_RELEASE: its ring is not looked at until the domain is introduced again
        self.home = f"/local/domain/{domid}"
        self.on_output: Callable[[], None] | None = None  # called without the lock, from any thread; must not block
        self.broken = ""  # why nothing is read from this connection any more
        self.events_lost = 0
        self.replies_taken = 0  # ever
        self._received = bytearray()
        self._output: deque[bytes] = deque()
        self._taken = 0
        self._replies = 0
        self._event_bytes = 0
        self._events: set[bytes] = set()  # events in _output of which nothing was sent yet
        self._watches: dict[tuple[str, bytes], Watch] = {}
        self._transactions: dict[int, Transaction] = {}
        self._next_tx_id = 1
        self._later: list[Watch] = []  # watches whose first event follows the reply being made

    # --- for the owner

    @property
    def room(self) -> int:
        """Bytes that may be fed now; 0 while replies wait to be taken."""
        if self.broken or self._replies >= self.store.quotas.outstanding:
            return 0
        return max(0, INPUT_BYTES_HELD - len(self._received))

    @property
    def pending(self) -> bool:
        """Whether there is output to take."""
        return bool(self._output)

    def account(self) -> Account:
        return Account(len(self._watches), len(self._transactions), self._replies, sum(map(len, self._output)) - self._taken)

    def feed(self, data: bytes) -> None:
        """Takes request bytes in pieces of any size and answers the requests that are complete."""
        with self.store.changing(self):
            if not self.broken:
                self._received += data
                self._serve()

    def take(self, maximum: int) -> bytes:
        """The next output bytes, at most `maximum`; makes room for requests that waited."""
        with self.store.changing(self):
            taken = bytearray()
            while self._output and len(taken) < maximum:
                head = self._output[0]
                if self._taken == 0:
                    self._events.discard(head)
                piece = head[self._taken : self._taken + maximum - len(taken)]
                taken += piece
                self._taken += len(piece)
                if self._taken == len(head):
                    self._drop_head(head)
            if taken and not self.broken:
                self._serve()
            return bytes(taken)

    def forgo(self, replies: int) -> None:
        """Drops all events and the first `replies` replies, untaken; makes room for requests that waited."""
        with self.store.changing(self):
            kept = [one for one in self._output if HEADER.unpack_from(one)[0] != wire.XS_WATCH_EVENT][replies:]
            self._output.clear()
            self._events.clear()
            self._taken = self._event_bytes = self._replies = 0
            for one in kept:
                self._append(one, fresh=True)
            self._serve()

    def reset(self) -> None:
        """Back to a new connection: no watches, transactions, partial messages or queued output."""
        with self.store.changing(self):
            self._clear_watches()
            self._transactions.clear()
            self._received.clear()
            self._output.clear()
            self._events.clear()
            self._taken = self._replies = self._event_bytes = 0
            self.broken = ""

    def close(self) -> None:
        """Ends the connection and forgets it."""
        with self.store.changing(self):
            self.reset()
            self.broken = "closed"
            self.store.disconnected(self)

    def save(self) -> ConnectionState:
        with self.store.changing(self):
            return ConnectionState(
                domid=self.domid,
                broken=self.broken,
                received=bytes(self._received),
                output=tuple(self._output),
                output_taken=self._taken,
                watches=tuple((watch.path, watch.token, watch.relative) for watch in self._watches.values()),
                transactions=tuple(tx.save() for tx in self._transactions.values()),
                next_tx_id=self._next_tx_id,
                events_lost=self.events_lost,
                released=self.released,
            )

    def load(self, state: ConnectionState) -> None:
        """Takes a saved state over in place of the present one."""
        with self.store.changing(self):
            self.reset()
            self.broken, self.released = state.broken, state.released
            self.events_lost = state.events_lost
            self._received += state.received
            for number, one in enumerate(state.output):
                self._append(one, fresh=number > 0 or state.output_taken == 0)
            self._taken = state.output_taken
            for path, token, relative in state.watches:
                self._watches[path, token] = self.store.watches.add(self, path, token, relative)
            for tx in state.transactions:
                self._transactions[tx.tx_id] = Transaction.load(tx, self.store.tree)
            self._next_tx_id = state.next_tx_id

    # --- for the store, under its lock

    def queue_event(self, watch: Watch, path: str) -> None:
        payload = watch.shown(path).encode("ascii") + b"\0" + watch.token + b"\0"
        if len(payload) > XENSTORE_PAYLOAD_MAX or self.broken:
            return
        event = wire.message(wire.XS_WATCH_EVENT, 0, 0, payload)
        if event in self._events and not path.startswith("@"):  # that it came twice tells something of special events alone
            return
        if self._event_bytes + len(event) > EVENT_BYTES_HELD:
            self.events_lost += 1
            return
        self._append(event, fresh=True)
        self.store.announce(self)

    # --- inside

    def _append(self, data: bytes, *, fresh: bool) -> None:
        self._output.append(data)
        if HEADER.unpack_from(data)[0] == wire.XS_WATCH_EVENT:
            self._event_bytes += len(data)
            if fresh:
                self._events.add(data)
        else:
            self._replies += 1

    def _drop_head(self, head: bytes) -> None:
        self._output.popleft()
        self._taken = 0
        if HEADER.unpack_from(head)[0] == wire.XS_WATCH_EVENT:
            self._event_bytes -= len(head)
        else:
            self._replies -= 1
            self.replies_taken += 1

    def _serve(self) -> None:
        while self._replies < self.store.quotas.outstanding and len(self._received) >= HEADER.size:
            kind, req_id, tx_id, length = HEADER.unpack_from(self._received)
            if length > XENSTORE_PAYLOAD_MAX:
                self.reset()
                self.broken = f"a request of type {kind} announced {length} bytes of payload, more than {XENSTORE_PAYLOAD_MAX}"
                return
            if len(self._received) < HEADER.size + length:
                return
            payload = bytes(self._received[HEADER.size : HEADER.size + length])
            del self._received[: HEADER.size + length]
            self._append(self._answer(kind, req_id, tx_id, payload), fresh=False)
            while self._later:
                watch = self._later.pop()
                self.queue_event(watch, watch.path)

    def _answer(self, kind: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
        if self.store.tracing:
            shown = payload[:200].replace(b"\0", b" ").decode("ascii", "backslashreplace")
            self.store.log(f"domain {self.domid} connection {self.serial} {wire.NAMES.get(kind, str(kind))} tx {tx_id}: {shown}")
        try:
            reply = self._dispatch(kind, tx_id, payload)
            if len(reply) > XENSTORE_PAYLOAD_MAX:
                raise RefusedError("E2BIG")
        except RefusedError as refused:
            return wire.message(wire.XS_ERROR, req_id, tx_id, refused.name.encode() + b"\0")
        return wire.message(kind, req_id, tx_id, reply)

    def _dispatch(self, kind: int, tx_id: int, payload: bytes) -> bytes:
        privileged = _PRIVILEGED.get(kind)
        if privileged is not None and self.domid:
            raise RefusedError("EACCES")
        outside = _OUTSIDE.get(kind)
        if outside is not None:
            return outside(self, payload)
        tx = self._transactions.get(tx_id) if tx_id else None
        handler = _HANDLERS.get(kind)
        if handler is None and privileged is None and kind not in _DOMAINS:
            raise RefusedError("ENOSYS")
        if tx_id and tx is None:
            raise RefusedError("ENOENT")
        if handler is not None:
            return handler(self, payload, tx)
        return (privileged or _DOMAINS[kind])(self, payload)

    def _path(self, text: bytes) -> str:
        """An absolute path from what the client gave; EINVAL is left to the lookup, which checks it."""
        if not text.isascii():
            raise RefusedError("EINVAL")
        path = text.decode("ascii")
        return path if path[:1] in ("/", "@") else f"{self.home}/{path}"

    def _look(self, payload: bytes, tx: Transaction | None) -> Node:
        return self.store.lookup(self.domid, self._path(wire.one_string(payload)), READ, tx)

    def _directory(self, payload: bytes, tx: Transaction | None) -> bytes:
        return b"".join(name.encode() + b"\0" for name in self._look(payload, tx).children)

    def _directory_part(self, payload: bytes, tx: Transaction | None) -> bytes:
        given = wire.strings(payload)
        if len(given) != 2:
            raise RefusedError("EINVAL")
        node = self.store.lookup(self.domid, self._path(given[0]), READ, tx)
        offset = wire.decimal(given[1])
        names = b"".join(name.encode() + b"\0" for name in node.children)
        generation = str(node.generation).encode() + b"\0"
        if offset >= len(names):
            return generation + b"\0"
        space = XENSTORE_PAYLOAD_MAX - len(generation) - 1
        part = names[offset : offset + space]
        if offset + len(part) == len(names):
            return generation + part + b"\0"
        return generation + part[: part.rfind(b"\0") + 1]

    def _read(self, payload: bytes, tx: Transaction | None) -> bytes:
        return self._look(payload, tx).value

    def _get_perms(self, payload: bytes, tx: Transaction | None) -> bytes:
        return b"".join(perm.text().encode() + b"\0" for perm in self._look(payload, tx).perms)

    def _write(self, payload: bytes, tx: Transaction | None) -> bytes:
        path, nul, value = payload.partition(b"\0")
        if not nul:
            raise RefusedError("EINVAL")
        self._check_bounds(len(value))
        self.store.write_node(self.domid, self._path(path), value, tx)
        return _OK

    def _check_bounds(self, more: int) -> None:
        tree, bounds = self.store.tree, self.bounds
        if bounds and (tree.owned.get(0, 0) >= bounds.nodes or tree.held.get(0, 0) + more > bounds.memory):
            raise RefusedError("ENOSPC")

    def _mkdir(self, payload: bytes, tx: Transaction | None) -> bytes:
        self._check_bounds(0)
        self.store.make_node(self.domid, self._path(wire.one_string(payload)), tx)
        return _OK

    def _rm(self, payload: bytes, tx: Transaction | None) -> bytes:
        self.store.remove_node(self.domid, self._path(wire.one_string(payload)), tx)
        return _OK

    def _set_perms(self, payload: bytes, tx: Transaction | None) -> bytes:
        given = wire.strings(payload)
        if len(given) < 2:
            raise RefusedError("EINVAL")
        perms = tuple(parse_perm(text) for text in given[1:])
        self.store.set_perms(self.domid, self._path(given[0]), perms, tx)
        return _OK

    def _transaction_start(self, payload: bytes, tx: Transaction | None) -> bytes:
        if tx is not None:
            raise RefusedError("EBUSY")
        most = self.bounds.transactions - 1 if self.bounds else self.store.quotas.transactions
        if (self.domid or self.bounds) and len(self._transactions) > most:
            raise RefusedError("ENOSPC")
        while self._next_tx_id == 0 or self._next_tx_id in self._transactions:
            self._next_tx_id = (self._next_tx_id + 1) & 0xFFFFFFFF
        tx_id = self._next_tx_id
        self._next_tx_id = (tx_id + 1) & 0xFFFFFFFF
        self._transactions[tx_id] = Transaction(tx_id, self.store.tree)
        return b"%d\0" % tx_id

    def _transaction_end(self, payload: bytes, tx: Transaction | None) -> bytes:
        verdict = wire.one_string(payload)
        if verdict not in (b"T", b"F"):
            raise RefusedError("EINVAL")
        if tx is None:
            raise RefusedError("ENOENT")
        del self._transactions[tx.tx_id]
        if verdict == b"T":
            self.store.commit(self.domid, tx)
        return _OK

    def _watch_arguments(self, payload: bytes) -> tuple[str, bytes, bool]:
        given = wire.strings(payload)
        if len(given) != 2:
            raise RefusedError("EINVAL")
        path = self._path(given[0])
        return path, given[1], given[0][:1] not in (b"/", b"@")

    def _watch(self, payload: bytes) -> bytes:
        path, token, relative = self._watch_arguments(payload)
        if not (valid_path(path) or (path.startswith("@") and len(path) <= wire.XENSTORE_REL_PATH_MAX)):
            raise RefusedError("EINVAL")
        if (path, token) in self._watches:
            raise RefusedError("EEXIST")
        most = self.bounds.watches - 1 if self.bounds else self.store.quotas.watches
        if (self.domid or self.bounds) and len(self._watches) > most:
            raise RefusedError("E2BIG")
        watch = self.store.watches.add(self, path, token, relative)
        self._watches[path, token] = watch
        self._later.append(watch)  # it fires once, after the reply
        return _OK

    def _unwatch(self, payload: bytes) -> bytes:
        path, token, _ = self._watch_arguments(payload)
        watch = self._watches.pop((path, token), None)
        if watch is None:
            raise RefusedError("ENOENT")
        self.store.watches.remove(watch)
        return _OK

    def _reset_watches(self, payload: bytes, tx: Transaction | None) -> bytes:
        self._clear_watches()
        self._transactions.clear()
        return _OK

    def _clear_watches(self) -> None:
        for watch in self._watches.values():
            self.store.watches.remove(watch)
        self._watches.clear()
        self._later.clear()


_PRIVILEGED: Final[dict[int, Callable[[Connection, bytes], bytes]]] = {  # Domain-0's alone
    wire.XS_CONTROL: control.control,
    wire.XS_INTRODUCE: domainrequests.introduce,
    wire.XS_RELEASE: domainrequests.release,
    wire.XS_IS_DOMAIN_INTRODUCED: domainrequests.is_domain_introduced,
    wire.XS_RESUME: domainrequests.resume,
    wire.XS_SET_TARGET: domainrequests.set_target,
}
_DOMAINS: Final = {wire.XS_GET_DOMAIN_PATH: domainrequests.get_domain_path}
_OUTSIDE: Final[dict[int, Callable[[Connection, bytes], bytes]]] = {  # their tx_id means nothing
    wire.XS_WATCH: Connection._watch,
    wire.XS_UNWATCH: Connection._unwatch,
}
_HANDLERS: Final[dict[int, Callable[[Connection, bytes, Transaction | None], bytes]]] = {
    wire.XS_DIRECTORY: Connection._directory,
    wire.XS_DIRECTORY_PART: Connection._directory_part,
    wire.XS_READ: Connection._read,
    wire.XS_GET_PERMS: Connection._get_perms,
    wire.XS_SET_PERMS: Connection._set_perms,
    wire.XS_WRITE: Connection._write,
    wire.XS_MKDIR: Connection._mkdir,
    wire.XS_RM: Connection._rm,
    wire.XS_TRANSACTION_START: Connection._transaction_start,
    wire.XS_TRANSACTION_END: Connection._transaction_end,
    wire.XS_RESET_WATCHES: Connection._reset_watches,
}
