"""Plays a list of hostile acts against the store, by a guest's ring and by clients of the socket, and checks what must always hold.

An act is a list, so that a corpus is JSON: ["ring", bytes], ["index", which, value], ["read", count], ["client", number, bytes],
["drain", number], ["hang-up", number], ["toolstack", verb]. Bytes are Latin-1 text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from emulator.dom0.xenstore import Connection, Perm, Store, XenstoreRing, wire
from emulator.dom0.xenstore.quotas import ClientBounds
from emulator.dom0.xenstore.tree import walk
from tests.unit.xenstore_client import introduced, nodes, parse

SECRET: Final = b"the-secret"
BOUNDS: Final = ClientBounds(watches=30, transactions=6, nodes=700, memory=200_000)
CLIENTS: Final = 3
_INDICES: Final = {"req_prod": wire.REQ_PROD, "rsp_cons": wire.RSP_CONS, "req_cons": wire.REQ_CONS, "rsp_prod": wire.RSP_PROD,
                   "connection": wire.CONNECTION}  # fmt: skip
MOST_HELD: Final = 600_000
Act = Sequence[Any]


class Play:
    def __init__(self) -> None:
        self.store = Store()
        self.store.quotas.nodes, self.store.quotas.memory = 200, 60_000
        self.guest = introduced(self.store, 1).connection
        introduced(self.store, 2)
        self.store.write("/local/domain/2/data/private", SECRET)
        self.store.set_permissions("/local/domain/2/data/private", (Perm(2, 0),))
        self.page = bytearray(4096)
        self.ring = XenstoreRing(memoryview(self.page), self.guest)
        self.ring.advertise()
        self.clients: dict[int, Connection] = {}
        self.asked: dict[int, int] = {}  # complete requests of each client so far
        self.heard = bytearray()  # by the guest

    def run(self, acts: Sequence[Act]) -> None:
        for act in acts:
            getattr(self, "_" + act[0].replace("-", "_"))(*act[1:])
            self.check()
        for number in tuple(self.clients):
            self._drain(number)
            self._hang_up(number)
        self.store.release(1)
        self.check()
        assert self.store.tree.owned.get(1, 0) == 0 and self.store.read("/local/domain/1") is None

    # --- acts

    def _ring(self, text: str) -> None:
        data = text.encode("latin-1")
        prod = self._get(wire.REQ_PROD)
        room = max(0, 1024 - ((prod - self._get(wire.REQ_CONS)) & 0xFFFFFFFF))
        for at, byte in enumerate(data[:room]):
            self.page[wire.REQ + (prod + at) % 1024] = byte
        self._set(wire.REQ_PROD, prod + min(room, len(data)))
        self.ring.kick()

    def _index(self, which: str, value: int) -> None:
        self._set(_INDICES[which], value)
        self.ring.kick()

    def _read(self, count: int) -> None:
        cons = self._get(wire.RSP_CONS)
        count = min(count, (self._get(wire.RSP_PROD) - cons) & 0xFFFFFFFF, 1024)
        self.heard += bytes(self.page[wire.RSP + (cons + at) % 1024] for at in range(count))
        self._set(wire.RSP_CONS, cons + count)
        self.ring.kick()

    def _client(self, number: int, text: str) -> None:
        number %= CLIENTS
        if number not in self.clients:
            self.clients[number] = self.store.connect(0, BOUNDS)
        connection, data = self.clients[number], text.encode("latin-1")
        while data and (room := connection.room):
            connection.feed(data[:room])
            data = data[room:]

    def _drain(self, number: int) -> None:
        connection = self.clients.get(number % CLIENTS)
        if connection is not None:
            parse(connection.take(1 << 22))  # whole messages, one after the other

    def _hang_up(self, number: int) -> None:
        connection = self.clients.pop(number % CLIENTS, None)
        if connection is not None:
            connection.close()
            assert connection.account().watches == connection.account().transactions == 0

    def _toolstack(self, verb: str) -> None:
        store = self.store
        if verb == "restart":
            store.release(2)
            store.introduce(2, "again", nodes=nodes(2))
            store.write("/local/domain/2/data/private", SECRET)
            store.set_permissions("/local/domain/2/data/private", (Perm(2, 0),))
        elif verb == "shut down":
            store.shut_down(1)
        elif verb == "let go":
            store.let_go(1)
        elif verb == "introduce":
            store.reintroduce(1)
        elif verb == "save and load":
            saved, state = store.save_domain(1), self.ring.save()
            store.load_domain(1, saved)
            self.ring.load(state)

    # --- what always holds

    def check(self) -> None:
        tree, quotas = self.store.tree, self.store.quotas
        owned: dict[int, int] = {}
        held: dict[int, int] = {}
        for path, node in walk("/", tree.root):
            owner = node.perms[0].domid
            owned[owner] = owned.get(owner, 0) + (path != "/")
            held[owner] = held.get(owner, 0) + len(node.value)
        assert {k: v for k, v in owned.items() if v} == {k: v for k, v in tree.owned.items() if v}
        assert {k: v for k, v in held.items() if v} == {k: v for k, v in tree.held.items() if v}
        assert owned.get(1, 0) <= quotas.nodes + 60, "what a tool of Domain-0 gives away does not count against giving"
        for connection in self.store.connections.values():
            account = connection.account()
            bounds = connection.bounds
            assert account.bytes < MOST_HELD and account.replies <= quotas.outstanding
            assert account.watches <= (bounds.watches if bounds else quotas.watches + 1)
            assert account.transactions <= (bounds.transactions if bounds else quotas.transactions + 1)
        assert SECRET not in self.heard and SECRET not in self.page

    def _get(self, at: int) -> int:
        return int.from_bytes(self.page[at : at + 4], "little")

    def _set(self, at: int, value: int) -> None:
        self.page[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
