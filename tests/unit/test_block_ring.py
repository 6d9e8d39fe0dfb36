"""The block ring's backend end, played as a script: what the frontend writes, what it gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi.blkif import SLOT, ring_slots
from emulator.abi.ring import REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD
from tests.unit.block_frontend import Frontend
from tests.unit.plain_grants import FRAMES

WHOLE = (110, 0, 7)


def test_ring_sizes_are_those_of_the_headers() -> None:
    assert [ring_slots(pages) for pages in (1, 2, 4)] == [32, 64, 128]


def test_a_write_goes_to_the_disk_and_a_read_brings_it_back() -> None:
    front = Frontend()
    front.data(110)[:] = bytes(range(256)) * 16
    front.request(1, 77, 16, (110, 1, 2))
    assert front.run()
    assert front.answers() == [(77, 1, 0)]
    assert front.disk[16 * 512 : 18 * 512] == bytes(range(256)) * 4 and not any(front.disk[: 16 * 512])
    front.request(0, 78, 16, (112, 7, 7), (111, 0, 0))
    assert front.run()
    assert front.answers() == [(78, 0, 0)]
    assert bytes(front.data(112)[3584:]) == bytes(range(256)) * 2 == bytes(front.data(111)[:512])


def test_what_is_written_is_copied_when_the_request_is_taken() -> None:
    front = Frontend()
    front.data(110)[:] = b"A" * 4096
    front.request(1, 1, 0, WHOLE)
    (job,) = front.ring.take()
    front.data(110)[:] = b"B" * 4096
    assert job.data == b"A" * 4096


def test_a_grant_revoked_in_flight_is_an_error_and_not_a_byte() -> None:
    front = Frontend()
    front.disk[:] = b"d" * len(front.disk)
    front.request(0, 1, 0, WHOLE, (111, 0, 7))
    (job,) = front.ring.take()
    front.grants.revoked = {111}
    front.do(job)
    front.ring.push()
    assert front.answers() == [(1, 0, -1)] and not any(front.data(110)) and "grant 111" in front.ring.counters.refused


def test_indirect_requests_carry_more_segments_than_a_slot() -> None:
    front = Frontend()
    front.disk[:] = bytes(range(256)) * 4096
    front.indirect(0, 5, 8, [(110 + n, 0, 7) for n in range(30)])
    front.run()
    assert front.answers() == [(5, 0, 0)]
    assert bytes(front.memory[10 * 4096 : 40 * 4096]) == front.disk[4096 : 31 * 4096]


def test_answers_come_in_the_order_of_their_completion() -> None:
    front = Frontend()
    for ident in range(3):
        front.request(0, ident, ident, (110, 0, 0))
    for job in reversed(front.ring.take()):
        front.do(job)
    front.ring.push()
    assert [answer[0] for answer in front.answers()] == [2, 1, 0]


def test_a_flush_may_carry_data_or_none() -> None:
    front = Frontend()
    front.request(3, 1, 0)
    front.request(3, 2, 0, WHOLE)
    jobs = front.ring.take()
    assert [(job.kind, len(job.data)) for job in jobs] == [(3, 0), (3, 4096)]


@pytest.mark.parametrize(
    ("operation", "sector", "segments", "status"),
    [
        (0, 2048, (WHOLE,), -1),  # the first sector behind the disk
        (0, 2041, (WHOLE,), -1),  # its end alone reaches beyond
        (1, (1 << 64) - 1, (WHOLE,), -1),
        (0, (1 << 55) + 1, (WHOLE,), -1),  # times 512 wraps at 2**64
        (0, 0, (), -1),
        (0, 0, ((110, 3, 2),), -1),
        (0, 0, ((110, 0, 8),), -1),
        (0, 0, ((99, 0, 7),), -1),
        (0, 0, (WHOLE, (4_000_000_000, 0, 7)), -1),
        (2, 0, (WHOLE,), -2),
        (4, 0, (), -2),
        (255, 0, (), -2),
    ],
)
def test_a_bad_request_fails_alone(operation: int, sector: int, segments: tuple[tuple[int, int, int], ...], status: int) -> None:
    front = Frontend()
    front.request(operation, 1, sector, *segments)
    front.request(0, 2, 0, WHOLE)
    front.run()
    assert front.answers() == [(1, operation, status), (2, 0, 0)]
    assert not front.ring.broken and not any(front.disk)


def test_more_segments_than_a_slot_has_are_refused() -> None:
    front = Frontend()
    front.put(bytes([0, 12]) + bytes(6) + bytes([1]) + bytes(103))
    front.indirect(0, 2, 0, [(110, 0, 0)] * 257)
    front.indirect(3, 3, 0, [(110, 0, 0)])
    front.run()
    assert [answer[2] for answer in front.answers()] == [-1, -1, -1]


def test_a_read_only_disk_refuses_writes_and_discards_and_a_read_needs_a_writable_grant() -> None:
    front = Frontend(readonly=True)
    front.request(1, 1, 0, WHOLE)
    front.discard(2, 0, 8)
    front.request(0, 3, 0, WHOLE)
    front.run()
    assert [answer[2] for answer in front.answers()] == [-1, -1, 0]
    front = Frontend()
    front.grants.readonly = {110}
    front.request(0, 1, 0, (111, 0, 7), WHOLE)
    front.request(1, 2, 0, WHOLE)
    front.run()
    assert [answer[2] for answer in front.answers()] == [-1, 0]


def test_discards_reach_the_disk_within_its_bounds() -> None:
    front = Frontend()
    front.discard(1, 8, 16)
    front.discard(2, 2040, 9)
    front.discard(3, 8, (1 << 64) - 8)
    assert [(job.kind, job.offset, job.size) for job in front.ring.take()] == [(5, 4096, 8192)]


def test_a_slot_that_changes_after_it_was_read_changes_nothing() -> None:
    front = Frontend()
    front.request(0, 1, 0, WHOLE)
    (job,) = front.ring.take()
    front.req_prod = 0
    front.request(1, 9, 1 << 50, (999, 0, 7))
    front.do(job)
    front.ring.push()
    assert front.answers() == [(1, 0, 0)]


@pytest.mark.parametrize("prod", [33, 1 << 31, 0xFFFFFFFF])
def test_indices_that_jump_break_the_ring(prod: int) -> None:
    front = Frontend()
    front.set(REQ_PROD, prod)
    assert front.ring.take() == [] and "req_prod" in front.ring.broken
    front.set(REQ_PROD, 1)
    assert front.ring.take() == []


def test_an_index_that_goes_back_breaks_the_ring() -> None:
    front = Frontend()
    for ident in range(4):
        front.request(0, ident, 0, WHOLE)
    assert len(front.ring.take()) == 4
    front.set(REQ_PROD, 2)
    assert front.ring.take() == [] and "went back" in front.ring.broken
    front.ring.abandon()
    assert front.ring.in_flight == 0


def test_the_ring_goes_round_past_the_end_of_its_indices() -> None:
    front = Frontend(pages=2)
    start = 0xFFFFFFF0
    front.ring.req_cons = front.ring.rsp_prod = front.ring._told = front.req_prod = front.rsp_cons = start
    front.set(RSP_PROD, start)
    front.set(REQ_PROD, start)
    front.set(RSP_EVENT, start + 1)
    for ident in range(100):
        front.request(1, ident, ident, (110, 0, 0))
        assert front.run()
        assert front.answers() == [(ident, 1, 0)]
    assert not front.ring.broken


def test_events_are_sent_only_when_they_are_asked_for() -> None:
    front = Frontend()
    front.set(RSP_EVENT, 3)
    for ident in range(3):
        front.request(0, ident, 0, WHOLE)
        assert front.run() is (ident == 2)
    assert front.get(REQ_EVENT) == 4


def test_a_saved_ring_does_again_what_was_in_flight() -> None:
    front = Frontend()
    front.data(110)[:] = b"x" * 4096
    front.request(1, 1, 0, WHOLE)
    front.request(0, 2, 8, (111, 0, 7))
    before = front.ring.take()
    state = front.ring.save()
    for job in before:
        front.do(job)
    again = front.ring.load(state)
    assert [(job.kind, job.offset, job.data) for job in again] == [(job.kind, job.offset, job.data) for job in before]
    front.ring.finish(before[0].tag, "late")  # an answer from before the restore finds nobody
    assert front.ring.in_flight == 2


def test_slots_are_shown_decoded() -> None:
    front = Frontend()
    front.request(1, 1, 8, WHOLE)
    front.put(b"\xff")
    shown = front.ring.slots()
    assert shown[0] == "write 8 sectors at 8" and shown[1].startswith("bad: operation 255")
    front.run()
    assert front.ring.slots()[:2] == ("answered 0: failed", "answered 1: done")  # the bad one needed no disk
    assert front.ring.indices() == (2, 2, 2, 0)


actions = st.one_of(
    st.tuples(st.just("slot"), st.binary(min_size=0, max_size=SLOT)),
    st.tuples(st.just("request"), st.integers(0, 7), st.integers(0, 1 << 64 - 1) | st.integers(0, 4096),
              st.lists(st.tuples(st.integers(98, 170), st.integers(0, 9), st.integers(0, 9)), max_size=11)),
    st.tuples(st.just("index"), st.sampled_from([REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT]), st.integers(0, 0xFFFFFFFF) | st.integers(0, 80)),
    st.tuples(st.just("scribble"), st.integers(0, FRAMES * 4096 - 64), st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("revoke"), st.integers(100, 163)),
    st.tuples(st.just("take")),
    st.tuples(st.just("finish"), st.integers(0, 40), st.booleans()),
    st.tuples(st.just("save")),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=30), st.sampled_from([1, 2, 4]), st.booleans())
def test_nothing_a_frontend_writes_gets_past_the_disk_or_breaks_the_backend(script: list[tuple[object, ...]], pages: int, readonly: bool) -> None:
    front = Frontend(capacity=64 * 512, readonly=readonly, pages=pages)
    jobs = []
    for action, *given_ in script:
        args: list[object] = given_
        match action, args:
            case "slot", [bytes(slot)]:
                front.put(slot)
            case "request", [int(operation), int(sector), list(segments)]:
                front.request(operation, 1, sector & (1 << 64) - 1, *segments)
            case "index", [int(at), int(value)]:
                front.set(at, value)
            case "scribble", [int(at), bytes(data)]:
                front.memory[at : at + len(data)] = data
            case "revoke", [int(gref)]:
                front.grants.revoked.add(gref)
            case "take", _:
                jobs += front.ring.take()
            case "finish", [int(which), bool(fails)] if jobs:
                job = jobs.pop(which % len(jobs))
                front.ring.finish(job.tag, "the disk failed") if fails else front.do(job)
                front.ring.push()
            case "save", _:
                front.ring.slots()
                jobs = front.ring.load(front.ring.save())
        for job in jobs:
            assert job.offset >= 0 and job.offset + job.size <= len(front.disk)
            assert not (readonly and job.kind in (1, 5)) and len(job.data) in (0, job.size)
        assert front.ring.in_flight <= front.ring.size
        assert front.memory.nbytes == FRAMES * 4096 and len(front.disk) == 64 * 512
    front.ring.abandon()
    assert front.ring.in_flight == 0
