"""The guest's ring: bytes through a shared page, whatever the guest writes into it."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.xenstore import RingState, Store, XenstoreRing, wire
from tests.unit.xenstore_client import Message, introduced, parse


class GuestRing:
    """The guest's side, as Linux's xenbus_comms.c works."""

    def __init__(self, store: Store, start: int = 0) -> None:
        self.page = bytearray(4096)
        self.store = store
        for index in (wire.REQ_CONS, wire.REQ_PROD, wire.RSP_CONS, wire.RSP_PROD):
            self.set(index, start)
        self.ring = XenstoreRing(memoryview(self.page), introduced(store, 1).connection)
        self.ring.advertise()
        self.got = b""

    def get(self, offset: int) -> int:
        value: int = struct.unpack_from("<I", self.page, offset)[0]
        return value

    def set(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.page, offset, value & 0xFFFFFFFF)

    def put(self, data: bytes) -> bytes:
        """Writes what fits; the rest is returned."""
        prod = self.get(wire.REQ_PROD)
        room = 1024 - ((prod - self.get(wire.REQ_CONS)) & 0xFFFFFFFF)
        for at, byte in enumerate(data[:room]):
            self.page[wire.REQ + (prod + at) % 1024] = byte
        self.set(wire.REQ_PROD, prod + min(room, len(data)))
        return data[room:]

    def drain(self, most: int = 1024) -> int:
        cons = self.get(wire.RSP_CONS)
        count = min(most, (self.get(wire.RSP_PROD) - cons) & 0xFFFFFFFF)
        self.got += bytes(self.page[wire.RSP + (cons + at) % 1024] for at in range(count))
        self.set(wire.RSP_CONS, cons + count)
        return count

    def exchange(self, data: bytes) -> list[Message]:
        while True:
            data = self.put(data)
            notified = self.ring.kick()
            if not self.drain() and not data and not notified:
                break
        got, self.got = self.got, b""
        return parse(got)


READ_NAME = wire.message(wire.XS_READ, 5, 0, b"name\0")


@pytest.mark.parametrize("start", [0, 1000, 0xFFFFFFF0])
def test_a_request_is_answered_wherever_the_indices_stand(start: int) -> None:
    guest = GuestRing(Store(), start)
    for _ in range(100):
        assert guest.exchange(READ_NAME) == [Message(wire.XS_READ, 5, 0, b"guest")]
    assert guest.get(wire.REQ_CONS) == guest.get(wire.REQ_PROD) == (start + 100 * len(READ_NAME)) & 0xFFFFFFFF


def test_a_kick_without_work_notifies_nobody() -> None:
    guest = GuestRing(Store())
    assert not guest.ring.kick()
    guest.put(READ_NAME[:10])
    assert guest.ring.kick(), "room was made"
    assert not guest.ring.kick()
    guest.put(READ_NAME[10:])
    assert guest.ring.kick()
    assert not guest.ring.kick()


def test_messages_larger_than_the_ring_pass_through_it() -> None:
    guest = GuestRing(Store())
    value = (bytes(range(256)) * 8)[:2000]
    assert guest.exchange(wire.message(wire.XS_WRITE, 1, 0, b"data\0" + value)) == [Message(wire.XS_WRITE, 1, 0, b"OK\0")]
    assert guest.exchange(wire.message(wire.XS_READ, 2, 0, b"data\0")) == [Message(wire.XS_READ, 2, 0, value)]


def test_replies_wait_for_room_and_requests_wait_for_replies() -> None:
    guest = GuestRing(Store())
    guest.store.write("/local/domain/1/data", "x" * 3000)
    request = wire.message(wire.XS_READ, 1, 0, b"data\0")
    rest = request * 200
    while True:
        left = guest.put(rest)
        if not guest.ring.kick() and left == rest:
            break
        rest = left
    assert guest.get(wire.RSP_PROD) - guest.get(wire.RSP_CONS) == 1024, "filled to the brim, so that the guest will notify"
    assert len(guest.ring.connection.save().output) <= 20
    assert rest
    assert len(guest.exchange(rest)) == 200


def test_an_event_from_another_domain_comes_at_the_next_kick() -> None:
    guest = GuestRing(Store())
    guest.exchange(wire.message(wire.XS_WATCH, 1, 0, b"control/shutdown\0t\0"))
    waits: list[int] = []
    guest.ring.connection.on_output = lambda: waits.append(1)
    guest.store.write("/local/domain/1/control/shutdown", "poweroff")
    assert waits == [1]
    assert guest.exchange(b"") == [Message(wire.XS_WATCH_EVENT, 0, 0, b"control/shutdown\0t\0")]


@pytest.mark.parametrize(
    ("index", "value"), [(wire.REQ_PROD, 1025), (wire.REQ_CONS, 1), (wire.RSP_CONS, 1), (wire.RSP_PROD, 0x80000000)]
)
def test_impossible_indices_break_the_ring_once_with_a_reason(index: int, value: int) -> None:
    guest = GuestRing(Store())
    guest.set(index, value)
    assert guest.ring.kick(), "the guest is told"
    assert "past" in guest.ring.broken and "\n" not in guest.ring.broken
    assert guest.get(wire.ERROR) == wire.XENSTORE_ERROR_RINGIDX
    before = bytes(guest.page)
    assert not guest.ring.kick()
    guest.store.write("/local/domain/1/control/shutdown", "poweroff")
    assert not guest.ring.kick()
    assert bytes(guest.page) == before


def test_a_payload_too_long_breaks_the_ring() -> None:
    guest = GuestRing(Store())
    guest.put(wire.HEADER.pack(wire.XS_READ, 1, 0, 1 << 31))
    assert guest.ring.kick()
    assert guest.get(wire.ERROR) == wire.XENSTORE_ERROR_PROTO
    assert "payload" in guest.ring.broken


def test_a_guest_may_reconnect_even_after_a_break() -> None:
    guest = GuestRing(Store())
    assert guest.get(wire.SERVER_FEATURES) == 3
    guest.exchange(wire.message(wire.XS_WATCH, 1, 0, b"data\0t\0"))
    guest.set(wire.REQ_PROD, 5000)
    guest.ring.kick()
    guest.set(wire.CONNECTION, wire.XENSTORE_RECONNECT)
    assert guest.ring.kick()
    assert [guest.get(at) for at in (wire.CONNECTION, wire.ERROR, wire.REQ_PROD, wire.RSP_PROD)] == [0, 0, 0, 0]
    guest.store.write("/local/domain/1/data", "x")
    assert guest.exchange(READ_NAME) == [Message(wire.XS_READ, 5, 0, b"guest")], "its watches are gone"


def test_a_page_that_cannot_serve_is_our_own_mistake() -> None:
    connection = introduced(Store(), 1).connection
    for page in (memoryview(bytes(4096)), memoryview(bytearray(2000))):
        with pytest.raises(ValueError, match="writable"):
            XenstoreRing(page, connection)


@settings(max_examples=100, deadline=None)
@given(
    requests=st.binary(min_size=1024, max_size=1024),
    indices=st.lists(st.integers(0, 0xFFFFFFFF), min_size=7, max_size=7),
    kicks=st.integers(1, 4),
)
def test_any_page_at_all_is_served_without_an_exception(requests: bytes, indices: list[int], kicks: int) -> None:
    guest = GuestRing(Store())
    guest.page[:1024] = requests
    struct.pack_into("<7I", guest.page, wire.REQ_CONS, *indices)
    for _ in range(kicks):
        guest.ring.kick()
    assert bytes(guest.page[wire.INTERFACE_SIZE :]) == bytes(4096 - wire.INTERFACE_SIZE)


@settings(max_examples=100, deadline=None)
@given(stream=st.binary(max_size=600), prods=st.lists(st.integers(0, 1200), max_size=8))
def test_a_ring_restored_with_its_page_goes_on_alike(stream: bytes, prods: list[int]) -> None:
    guest, twin = GuestRing(Store()), GuestRing(Store())
    guest.put(wire.message(wire.XS_WATCH, 1, 0, b"data\0t\0") + READ_NAME * 20 + stream)
    guest.ring.kick()
    guest.drain(len(stream))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(guest.ring.save()), type=RingState)
    twin.page[:] = guest.page
    twin.store.load_domain(1, guest.store.save_domain(1))
    twin.ring.load(state)
    assert twin.ring.save() == state
    for prod in prods:
        for one in (guest, twin):
            one.set(wire.REQ_PROD, prod)
            one.ring.kick()
            one.drain()
            one.store.write("/local/domain/1/data", str(prod))
        assert guest.page == twin.page
        assert guest.ring.save().connection.output == twin.ring.save().connection.output
