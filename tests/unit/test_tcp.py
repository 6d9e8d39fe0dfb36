"""The uplink's TCP: two ends of it over a wire that loses, doubles and reorders; a guest that breaks every rule; the rules one by one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.network.segment import ACK, FIN, PSH, RST, SYN, Segment
from emulator.dom0.network.tcp import BUFFER, TcpEnd

MS = 10**6
SECOND = 10**9


def cut(large: Segment) -> list[Segment]:
    """As segments of 1,460 bytes, the way a card does it."""
    starts = range(0, max(1, len(large.payload)), 1460)
    return [replace(large, sequence=large.sequence + at & 0xFFFFFFFF, payload=large.payload[at : at + 1460]) for at in starts]


class Wire:
    """Two ends and the segments between them; time passes as fast as nothing happens."""

    def __init__(self, seed: int, loss: float = 0.0, isn: tuple[int, int] = (1, 2)) -> None:
        self.chance, self.loss, self.now = random.Random(seed), loss, SECOND
        self.caller = TcpEnd.call(isn[0], self.now)
        self.answerer: TcpEnd | None = None
        self.isn = isn[1]
        self.flying: list[tuple[int, bool, Segment]] = []
        self.got: dict[bool, bytearray] = {False: bytearray(), True: bytearray()}

    def _launch(self, end: TcpEnd, to_answerer: bool) -> None:
        for segment in [part for large in end.output(self.now) for part in cut(large)]:
            for _ in range(1 + (self.chance.random() < self.loss / 4)):
                if self.chance.random() >= self.loss:
                    delay = self.chance.randrange(1, 20) if self.loss else 1
                    self.flying.append((self.now + delay * MS, to_answerer, segment))

    def ends(self) -> list[tuple[TcpEnd, bool]]:
        return [(self.caller, False), *([(self.answerer, True)] if self.answerer is not None else [])]

    def step(self, reads: int = 1 << 20) -> None:
        for end, answers in self.ends():
            end.tick(self.now)
            with end.waiting as waiting:
                taken = bytes(waiting[:reads])
            end.take(len(taken))
            self.got[answers] += taken
            self._launch(end, not answers)
        times = [time for time, _, _ in self.flying] + [end.deadline for end, _ in self.ends() if not end.done]
        self.now = max(self.now + 1, min(times, default=self.now))
        due = [one for one in self.flying if one[0] <= self.now]
        self.flying = [one for one in self.flying if one[0] > self.now]
        for _, to_answerer, segment in due:
            if not to_answerer:
                self.caller.receive(segment, self.now)
            elif self.answerer is not None:
                self.answerer.receive(segment, self.now)
            elif segment.flags == SYN:
                self.answerer = TcpEnd.answer(segment, self.isn, self.now)


def exchange(wire: Wire, forth: bytes, back: bytes, reads: int = 1 << 20) -> None:
    """Both streams to their ends; both closed."""
    left = {False: memoryview(forth), True: memoryview(back)}
    for _ in range(60_000):
        for end, answers in wire.ends():
            room = min(end.room, len(left[answers]))
            end.write(bytes(left[answers][:room]))
            left[answers] = left[answers][room:]
            if not left[answers]:
                end.close()
            assert len(end.waiting) <= BUFFER and not end.reset, end.reset
        wire.step(reads)
        if wire.answerer is not None and all(end.done and not len(end.waiting) for end, _ in wire.ends()):
            break
    assert wire.got[True] == forth and wire.got[False] == back
    assert [end.state for end, _ in wire.ends()] == ["CLOSED", "CLOSED"]


def test_a_connection_carries_both_streams_and_ends() -> None:
    wire = Wire(1)
    exchange(wire, random.Random(1).randbytes(1_000_000), random.Random(2).randbytes(300_000))
    assert wire.caller.retransmits == 0 and wire.now < 10 * SECOND


def test_a_slow_reader_closes_the_window_and_loses_nothing() -> None:
    exchange(Wire(2), random.Random(1).randbytes(600_000), b"x", reads=3000)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([0.02, 0.1, 0.25]), st.integers(0, 60_000), st.integers(0, 60_000))
def test_whatever_the_wire_does_the_bytes_arrive_in_order(seed: int, loss: float, forth: int, back: int) -> None:
    chance = random.Random(seed)
    isn = (chance.randrange(1 << 32), (1 << 32) - chance.randrange(1, 5000))  # sequence numbers wrap
    exchange(Wire(seed, loss, isn), chance.randbytes(forth), chance.randbytes(back), reads=chance.randrange(500, 1 << 17))


def established(now: int = SECOND, window: int = 60_000) -> tuple[TcpEnd, int, int]:
    """An end whose peer is the test; the peer's and its own next sequence numbers."""
    end = TcpEnd.answer(Segment(1000, 0, SYN, window, b"", 1460, 0), 5000, now)
    (syn_ack,) = end.output(now)
    assert (syn_ack.flags, syn_ack.acknowledged, syn_ack.mss, syn_ack.scale) == (SYN | ACK, 1001, 1460, 2)
    end.receive(Segment(1001, 5001, ACK, window), now)
    assert end.connected and end.state == "ESTABLISHED" and not end.output(now)
    return end, 1001, 5001


def test_pieces_out_of_order_are_put_in_order_and_doubles_dropped() -> None:
    end, at, ack = established()
    for offset, part in ((3, b"def"), (6, b"ghi"), (3, b"def"), (1, b"bcdefgh")):
        end.receive(Segment(at + offset, ack, ACK, 60_000, part), SECOND)
        assert [one.acknowledged for one in end.output(SECOND)] == [at]
    end.receive(Segment(at, ack, ACK | PSH, 60_000, b"abcd"), SECOND)
    assert bytes(end.waiting) == b"abcdefghi" and [one.acknowledged for one in end.output(SECOND)] == [at + 9]


def test_three_duplicate_acknowledgements_send_the_first_segment_again_at_once() -> None:
    end, at, ack = established()
    end.write(b"x" * 10_000)
    assert sum(len(one.payload) for one in end.output(SECOND)) == 10_000
    for _ in range(3):
        end.receive(Segment(at, ack, ACK, 60_000), SECOND)
    again = end.output(SECOND)
    assert [(one.sequence, len(one.payload)) for one in again] == [(ack, 1460)] and end.retransmits == 1


def test_a_closed_window_is_probed_and_does_not_end_the_connection() -> None:
    end, at, ack = established()
    now = SECOND
    end.receive(Segment(at, ack, ACK, 0), now)
    end.write(b"abc")
    assert not end.output(now)
    for _ in range(100):  # 100 probes, answered: the guest is there
        now = max(now, end.deadline)
        end.tick(now)
        for probe in end.output(now):
            assert probe.payload == b"a" and probe.sequence == ack
            end.receive(Segment(at, ack, ACK, 0), now)
    assert end.state == "ESTABLISHED"
    end.receive(Segment(at, ack, ACK, 100), now)
    assert b"".join(one.payload for one in end.output(now)) == b"abc"


def test_a_guest_that_acknowledges_nothing_is_given_up() -> None:
    end, _, _ = established()
    end.write(b"abc")
    now, sent = SECOND, 0
    while not end.done:
        sent += len(end.output(now))
        now = end.deadline
        end.tick(now)
    assert end.reset == "the guest acknowledges nothing" and 10 < sent < 40
    assert [one.flags for one in end.output(now)] == [RST | ACK] and not end.output(now)


@pytest.mark.parametrize(
    ("segment", "answered", "reset"),
    [
        (Segment(1001, 0, RST, 0), [], True),
        (Segment(1002, 0, RST, 0), [1001], False),  # in the window and not next: a challenge (RFC 5961)
        (Segment(900, 0, RST, 0), [], False),
        (Segment(1001, 0, SYN, 0), [1001], False),
        (Segment(1001, 9999, ACK, 100, b"x"), [1001], False),  # acknowledges what was never sent
        (Segment(1001 + (1 << 20), 5001, ACK, 100, b"x"), [1001], False),  # beyond the window
        (Segment(1001, 5001, 0, 100, b"x"), [], False),
    ],
)
def test_segments_that_do_not_fit_change_nothing(segment: Segment, answered: list[int], reset: bool) -> None:
    end, _, _ = established()
    end.receive(segment, SECOND)
    assert [one.acknowledged for one in end.output(SECOND)] == answered
    assert bool(end.reset) == reset and not len(end.waiting)


def test_both_sides_close() -> None:
    end, at, ack = established()
    end.receive(Segment(at, ack, ACK | FIN, 100, b"bye"), SECOND)
    assert end.eof and bytes(end.waiting) == b"bye" and end.state == "CLOSE_WAIT"
    end.write(b"too")
    end.close()
    out = end.output(SECOND)
    assert [(one.flags & FIN, one.payload, one.acknowledged) for one in out] == [(0, b"too", at + 4), (FIN, b"", at + 4)]
    assert end.state == "LAST_ACK"
    end.receive(Segment(at + 4, ack + 4, ACK, 100), SECOND)
    assert end.done and not end.reset


_sequences = st.integers(-70_000, 200_000).map(lambda offset: 1001 + offset & 0xFFFFFFFF) | st.integers(0, 0xFFFFFFFF)
_acks = st.integers(-10, 200_000).map(lambda offset: 5001 + offset) | st.integers(0, 0xFFFFFFFF)
_segments = st.builds(Segment, _sequences, _acks, st.integers(0, 63) | st.just(ACK), st.integers(0, 0xFFFF), st.binary(max_size=3000))
_moves = st.lists(st.tuples(st.sampled_from(["segment", "write", "take", "time", "close"]), _segments, st.integers(0, 1 << 17)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(_moves)
def test_a_guest_that_keeps_no_rule_breaks_nothing(moves: list[tuple[str, Segment, int]]) -> None:
    end, _, _ = established()
    now = SECOND
    for what, segment, number in moves:
        if what == "segment":
            end.receive(segment, now)
        elif what == "write":
            end.write(bytes(min(end.room, number)))
        elif what == "take":
            end.take(min(number, len(end.waiting)))
        elif what == "close":
            end.close()
        else:
            now += number * MS
        end.tick(now)
        out = end.output(now)
        assert len(out) < 2100 and len(end.waiting) <= BUFFER
        assert all(len(one.payload) <= 60_000 and 0 <= one.window <= 0xFFFF and 0 <= one.sequence <= 0xFFFFFFFF for one in out)
        assert end.state and (end.done or end.deadline)
