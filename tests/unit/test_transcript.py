"""A console's history: read from any offset, bounded, its oldest part gone first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emulator.dom0.transcript import Transcript


def test_it_is_read_from_any_offset_and_scrolled_back() -> None:
    kept = Transcript()
    for line in range(100):
        kept.append(f"line {line}\n".encode())
    start, data, end = kept.read(0, 1 << 20)
    assert (start, end) == (0, len(data)) and data.count(b"\n") == 100
    page = 30
    offsets = range(end - page, -1, -page)
    back = b"".join(kept.read(offset, page)[1] for offset in reversed(offsets))
    assert data.endswith(back) and len(back) == len(offsets) * page
    assert kept.read(end, 10) == (end, b"", end)
    assert kept.tail(8) == b"line 99\n"


def test_a_flood_is_bounded_and_offsets_go_on_counting() -> None:
    kept = Transcript(kept=10_000)
    for number in range(5000):
        kept.append(b"%09d\n" % number)
    start, data, end = kept.read(0, 1 << 20)
    assert end == 50_000 and start == end - len(data)
    assert 10_000 <= len(data) <= 20_000
    assert data.endswith(b"000004999\n") and int(data[:9]) == start // 10


def test_bytes_one_at_a_time_take_no_more_memory_than_the_bytes() -> None:
    kept = Transcript(kept=1000)
    for _ in range(20_000):
        kept.append(b"x")
    assert len(kept._chunks) <= 4097 and kept.end == 20_000


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=60), st.integers(0, 3000), st.integers(1, 500))
def test_whatever_is_kept_is_what_was_said(said: list[tuple[bytes, bool]], offset: int, limit: int) -> None:
    kept, whole, serial = Transcript(kept=700), b"", set[int]()
    for data, by_serial in said:
        kept.append(data, serial=by_serial)
        if by_serial:
            serial |= set(range(len(whole), len(whole) + len(data)))
        whole += data
    start, data, end = kept.read(offset, limit)
    assert end == len(whole) and whole[start : start + len(data)] == data and len(data) <= limit
    assert start >= offset
    assert {at for low, high in kept.serial(start, end) for at in range(low, high)} == {at for at in serial if at >= start}
