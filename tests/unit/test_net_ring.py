"""The network rings' backend ends, played as a script: what the frontend writes, what it gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi.netif import EXTRA_GSO, EXTRA_MCAST, SLOTS, TX_REQUEST
from emulator.abi.ring import REQ_PROD
from emulator.dom0.backends.net.ring import Ring
from emulator.dom0.backends.net.rx import MAX_QUEUED_FRAMES, RxRing
from emulator.dom0.backends.net.tx import TxRing
from emulator.dom0.network import Frame
from tests.unit.net_frontend import MASK, RX_FRAME, TX_FRAME, Rings


class Both(Rings):
    def __init__(self) -> None:
        super().__init__()
        self.tx, self.rx = TxRing(self.memory, TX_FRAME, self.grants), RxRing(self.memory, RX_FRAME, self.grants)

    def take(self) -> list[Frame]:
        frames = self.tx.take()
        self.tx.push()
        return frames


def pattern(size: int) -> bytes:
    return bytes(n * 7 + n // 256 & 0xFF for n in range(size))


def test_a_packet_of_one_slot_is_taken_and_answered() -> None:
    front = Both()
    front.send(pattern(60), ident=9, offset=100, flags=1)
    assert front.tx.take() == [Frame(pattern(60), blank=True)]
    assert front.tx.push()
    assert front.answers() == [(9, 0)]


def test_a_packet_over_several_slots_is_put_together_in_order() -> None:
    front = Both()
    front.send(pattern(9000), ident=4, flags=2)
    front.send(pattern(64), ident=20)
    assert front.take() == [Frame(pattern(9000), validated=True), Frame(pattern(64))]
    assert front.answers() == [(4, 0), (5, 0), (6, 0), (20, 0)]


def test_a_large_packet_brings_its_segment_size_in_an_extra_slot_that_is_answered_by_nothing() -> None:
    front = Both()
    front.send(pattern(5000), ident=4, flags=1, extras=(EXTRA_GSO.pack(1, 0, 1448, 1, 0, 0),))
    assert front.take() == [Frame(pattern(5000), True, False, 1448, 1)]
    assert front.answers() == [(4, 0), (0, 1), (5, 0)]


def test_multicast_filters_come_as_dummy_packets() -> None:
    front = Both()
    group = bytes.fromhex("01005e000001")
    front.send(b"", ident=1, extras=(EXTRA_MCAST.pack(2, 0, group),))
    front.send(b"", ident=2, extras=(EXTRA_MCAST.pack(2, 0, bytes(6)),))
    assert front.take() == [] and front.tx.multicast == {group}
    front.send(b"", ident=3, extras=(EXTRA_MCAST.pack(3, 0, group),))
    front.take()
    assert front.tx.multicast == set() and front.answers() == [(1, 0), (0, 1), (2, -1), (0, 1), (3, 0), (0, 1)]


def test_indices_wrap_at_32_bits() -> None:
    front = Both()
    for ring in (front.tx, front.rx):
        ring.load((0xFFFFFFF0, 0xFFFFFFF0, ""))
    front.prod = dict.fromkeys(front.prod, 0xFFFFFFF0)
    front.cons = dict.fromkeys(front.cons, 0xFFFFFFF0)
    front.buffers(40)
    for number in range(40):
        front.send(pattern(100 + number), ident=number)
    frames = front.take()
    assert [len(frame.data) for frame in frames] == list(range(100, 140))
    assert [ident for ident, _ in front.answers()] == list(range(40))
    front.rx.put(frames)
    front.rx.push()
    assert [data for data, _, _ in front.received()] == [frame.data for frame in frames]
    assert not front.tx.broken and not front.rx.broken


def test_what_is_no_frame_is_answered_with_an_error_and_nothing_more() -> None:
    front = Both()
    front.send(b"short", ident=1)
    front.send(pattern(4000), ident=10, step=200)  # 20 slots
    front.send(pattern(64), ident=50)
    assert front.take() == [Frame(pattern(64))]
    answers = front.answers()
    assert answers[0] == (1, -1) and answers[1:21] == [(10 + n, -1) for n in range(20)] and answers[21:] == [(50, 0)]
    assert front.tx.errors == 22 - 20 and "slots" in front.tx.refused


@pytest.mark.parametrize(
    ("slots", "why"),
    [
        ([TX_REQUEST.pack(116, 4090, 0, 1, 60)], "crosses its page"),
        ([TX_REQUEST.pack(116, 0, 0, 1, 5000)], "crosses its page"),
        ([TX_REQUEST.pack(116, 0, 4, 1, 60)], "announced and is not there"),
        ([TX_REQUEST.pack(116, 0, 8, 1, 60)], "announced and is not there"),
        ([TX_REQUEST.pack(116, 0, 4, 1, 5000), TX_REQUEST.pack(117, 4000, 0, 2, 1000)], "crosses its page"),
        ([TX_REQUEST.pack(116, 0, 8, 1, 60), bytes(12)], "type 0"),
        ([TX_REQUEST.pack(116, 0, 8, 1, 60), b"\x09".ljust(12, b"\0")], "type 9"),
        ([TX_REQUEST.pack(116, 0, 8, 1, 60), EXTRA_GSO.pack(1, 0, 0, 1, 0, 0)], "segments of 0"),
        ([TX_REQUEST.pack(116, 0, 8, 1, 60), EXTRA_GSO.pack(1, 0, 100, 7, 0, 0)], "type 7"),
        ([TX_REQUEST.pack(16, 0, 0, 1, 60)], "gives no access"),
        ([TX_REQUEST.pack(116, 0, 4, 1, 3000)] * 30, "more than 20 slots"),
    ],
)
def test_what_breaks_the_protocol_breaks_the_ring(slots: list[bytes], why: str) -> None:
    front = Both()
    for slot in slots:
        front.put(TX_FRAME, slot)
    assert front.tx.take() == [] and why in front.tx.broken
    front.send(pattern(64))
    assert front.tx.take() == []  # not served again


@pytest.mark.parametrize("ring", [TX_FRAME, RX_FRAME])
@pytest.mark.parametrize("prod", [SLOTS + 1, 0x80000000, MASK])
def test_indices_that_jump_break_the_ring(ring: int, prod: int) -> None:
    front = Both()
    front.set(ring, REQ_PROD, prod)
    end: Ring = front.tx if ring == TX_FRAME else front.rx
    assert end.waiting() == 0 and "req_prod" in end.broken


def test_an_index_that_goes_back_breaks_the_ring() -> None:
    front = Both()
    front.rx.load((5, 0, ""))
    front.set(RX_FRAME, REQ_PROD, 3)
    assert front.rx.waiting() == 0 and "went back" in front.rx.broken


def test_large_frames_take_a_buffer_a_page_and_one_for_the_segment_size() -> None:
    front = Both()
    front.buffers(6)
    front.rx.put([Frame(pattern(9000), True, False, 1448, 1), Frame(pattern(64), validated=True)])
    assert front.rx.push()
    (large, flags, extra), (small, small_flags, _) = front.received()
    assert front.rx.req_cons == 5
    assert small == pattern(64) and small_flags == 1
    assert flags == 1 | 2 | 4 | 8 and extra == EXTRA_GSO.pack(1, 0, 1448, 1, 0, 0) and len(large) == 9000


def test_a_frame_without_buffers_waits_and_asks_for_an_event() -> None:
    front = Both()
    front.buffers(1)
    front.rx.put([Frame(pattern(9000))])
    assert not front.rx.push() and len(front.rx.queue) == 1
    assert front.get(RX_FRAME, 4) == front.prod[RX_FRAME] + 1
    front.buffers(2)
    front.rx.fill()
    assert front.rx.push() and front.received()[0][0] == pattern(9000)


def test_the_queue_is_bounded() -> None:
    front = Both()
    front.rx.put([Frame(pattern(60))] * (MAX_QUEUED_FRAMES + 5))
    assert len(front.rx.queue) == MAX_QUEUED_FRAMES and front.rx.dropped == 5


def test_a_buffer_that_may_not_be_written_breaks_the_receive_ring() -> None:
    front = Both()
    front.grants.readonly.add(140)
    front.buffers(1)
    before = bytes(front.page(40))
    front.rx.put([Frame(b"\xff" * 60)])
    assert "read-only" in front.rx.broken and bytes(front.page(40)) == before


def test_slots_are_shown_decoded() -> None:
    front = Both()
    front.buffers(2)
    front.send(pattern(60), ident=3, flags=1)
    assert front.tx.slots()[0] == "send 3: 60 bytes at grant 116+0, checksum blank" and front.tx.slots()[1] == ""
    assert front.rx.slots()[:3] == ("buffer 0: grant 140", "buffer 1: grant 141", "")
    front.take()
    front.rx.put([Frame(pattern(60))])
    assert front.tx.slots()[0] == "answered 3: sent" and front.rx.slots()[0] == "received 0: 60 bytes"
    assert front.tx.indices() == (1, 1, 1, 0)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40 * 12), st.integers(0, MASK), st.binary(max_size=200), st.integers(0, MASK), st.integers(0, MASK))
def test_whatever_a_frontend_writes_only_its_own_rings_change(tx: bytes, prod: int, rx: bytes, rx_prod: int, rsp_event: int) -> None:
    front = Both()
    memory = front.memory
    memory[TX_FRAME * 4096 + 64 : TX_FRAME * 4096 + 64 + len(tx)] = tx
    memory[RX_FRAME * 4096 + 64 : RX_FRAME * 4096 + 64 + len(rx)] = rx
    prod, rx_prod = (value if value % 3 else value % 64 for value in (prod, rx_prod))
    front.set(TX_FRAME, REQ_PROD, prod)
    front.set(RX_FRAME, REQ_PROD, rx_prod)
    front.set(TX_FRAME, 12, rsp_event)
    outside = bytes(memory[: TX_FRAME * 4096])
    frames = front.take()
    assert all(14 <= len(frame.data) <= 0xFFFF for frame in frames)
    front.rx.put([Frame(pattern(5000), gso=100, gso_type=1), Frame(pattern(60))])
    front.rx.push()
    front.tx.slots(), front.rx.slots(), front.tx.indices(), front.rx.indices()
    assert bytes(memory[: TX_FRAME * 4096]) == outside
    assert front.tx.rsp_prod == front.tx.req_cons or front.tx.broken


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(14, 20000), st.sampled_from([1000, 2048, 4096])), min_size=1, max_size=12))
def test_good_packets_arrive_whole_whatever_their_slots(packets: list[tuple[int, int]]) -> None:
    front = Both()
    sent = []
    for size, step in packets:
        data = pattern(min(size, step * 18))
        sent.append(data)
        front.send(data, step=step)
        assert front.take() == [Frame(data)]
        front.buffers(SLOTS - (front.prod[RX_FRAME] - front.cons[RX_FRAME] & MASK))
        front.rx.put([Frame(data)])
        front.rx.push()
        assert [got for got, _, _ in front.received()] == [data]


def test_a_saved_ring_goes_on_where_it_was() -> None:
    front = Both()
    front.send(pattern(60), ident=1)
    front.take()
    state = front.tx.save()
    again = TxRing(front.memory, TX_FRAME, front.grants)
    again.load(state)
    front.send(pattern(61), ident=2)
    assert again.take() == [Frame(pattern(61))]
