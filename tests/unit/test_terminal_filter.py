"""The terminal filter: whatever a guest sends, only what is on the list comes out, however it was cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenconsole.terminal.filter import BELL_GAP, MAX_STRING, TerminalFilter

# The list once more, written apart from the code it tests.
SAFE = re.compile(
    r"(?:[\x07-\x0d\x20-\x7e]"
    r"|[\u00a0-\U0010ffff]"
    r"|\x1b[78DEM=>]"
    r"|\x1b\[[0-9;:]*m"
    r"|\x1b\[\d{0,4}[@A-GI-MPSTXZ`adeb]"
    r"|\x1b\[\d{0,4}(?:;\d{0,4})?[Hfr]"
    r"|\x1b\[[su]"
    r"|\x1b\[4[hl]"
    r"|\x1b\[\?(?:1|6|7|12|25|47|1047|1048|1049)[hl]"
    r")*"
)

PIECES = [
    b"plain",
    "grüße €😀".encode(),
    b"\r\n",
    b"\x1b[1;31m",
    b"\x1b[38:2:1:2:3m",
    b"\x1b]0;title\x07",
    b"\x1b]52;c;ZXZpbA==\x1b\\",
    b"\x1bP$qm\x1b\\",
    b"\x1b_apc\x1b\\",
    b"\x1b[c",
    b"\x1b[>c",
    b"\x1b[6n",
    b"\x1b[21t",
    b"\x1b[?1000h",
    b"\x1b[?2004h",
    b"\x1b[?1049h",
    b"\x1b[?1049;1003h",
    b"\x05",
    b"\x0e",
    b"\x1b(0",
    b"\x1b#8",
    b"\xc2\x9b31m",
    b"\xc2\x9d0;t\x07",
    b"\x9b1m",
    b"\xff\xfe",
    b"\x1b",
    b"\x1b[",
    b"\x1bc",
    b"\x1b[3J",
    b"\x1b[2J",
    b"\x1b[999999999b",
    b"\x1b[?1$p",
    b"\x1b[!p",
    b"\x1b[5;10r",
    b"\x07",
    b"\xe2\x82",
    b"\x1b[1\n2m",
    b"\x18",
    b"\x1b[>4;2m",
    b"\x1b[1;2;3;4;5T",
    b"\x1b[" + b"1;" * 40 + b"m",
]
hostile = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=20).map(b"".join)


def filtered(*chunks: bytes) -> bytes:
    screen = TerminalFilter()
    return b"".join(screen.feed(chunk) for chunk in chunks)


@settings(max_examples=300, deadline=None)
@given(hostile)
def test_only_listed_sequences_come_out(data: bytes) -> None:
    screen = TerminalFilter()
    assert SAFE.fullmatch(screen.feed(data).decode("utf-8"))
    assert SAFE.fullmatch(screen.finish().decode("utf-8"))


@settings(max_examples=300, deadline=None)
@given(hostile, st.data())
def test_cutting_the_stream_changes_nothing(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    whole, pieces = TerminalFilter(), TerminalFilter()
    chunks = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert b"".join(pieces.feed(chunk) for chunk in chunks) == whole.feed(data)
    assert pieces.finish() == whole.finish()
    bytewise = TerminalFilter()
    assert b"".join(bytewise.feed(data[i : i + 1]) for i in range(len(data))) == TerminalFilter().feed(data)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cc", "Cs"])))
def test_text_passes_as_it_is(text: str) -> None:
    assert filtered(text.encode()) == text.encode()


@settings(max_examples=100, deadline=None)
@given(hostile)
def test_filtering_twice_is_filtering_once(data: bytes) -> None:
    once = filtered(data)
    assert filtered(once) == once


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b[31mred\x1b[0m",
        b"\x1b[2;5H\x1b[K\x1b[J",
        b"\x1b[5;20r",
        b"\x1b[?1049h\x1b[?25l",
        b"\x1b7\x1b8\x1bM",
        b"\x1b[10@\x1b[3P\x1b[L",
    ],
)
def test_what_a_screen_program_needs_passes(data: bytes) -> None:
    assert filtered(data) == data


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b]0;title\x07",
        b"\x1b]52;c;AAAA\x1b\\",
        b"\x1b]4;1;?\x07",
        b"\x1bP$qm\x1b\\",
        b"\x1b_x\x1b\\",
        b"\x1b^x\x1b\\",
        b"\x1bXx\x1b\\",
        b"\x1b[c",
        b"\x1b[>0c",
        b"\x1b[5n",
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[18t",
        b"\x1b[8;1;1t",
        b"\x1b[?1006h",
        b"\x1b[?2004h",
        b"\x1b[?1004h",
        b"\x1b(0",
        b"\x0e",
        b"\x0f",
        b"\x05",
        b"\x1b[3J",
        b"\x1bZ",
        b"\x1b[x",
        b"\x1b[?1$p",
        b"\x1b[=1u",
        b"\x1b[>1u",
        b"\x1b[20h",
        b"\x1b[1;1;1;1;1*y",
        b"\x1b[q",
        b"\x1bH",
        b"\x1b[3g",
        b"\xc2\x9b6n",
        b"\xc2\x9d0;t\x07",
        b"\xc2\x85",
        b"\x00",
        b"\x7f",
        b"\x11",
        b"\x13",
    ],
)
def test_what_could_harm_is_dropped_whole(data: bytes) -> None:
    assert filtered(data) == b""
    assert filtered(b"a" + data + b"b") == b"ab"


def test_a_string_that_never_ends_does_not_swallow_all_that_follows() -> None:
    assert filtered(b"\x1b]0;" + b"x" * (MAX_STRING + 100) + b"shown").endswith(b"shown")


def test_a_flood_of_bells_rings_now_and_then() -> None:
    rung = filtered(b"\x07" * 10 * BELL_GAP)
    assert 9 <= len(rung) <= 11


def test_the_terminal_is_left_as_it_should_be() -> None:
    screen = TerminalFilter()
    screen.feed(b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b=\x1b[4h\x1b[?1h")
    left = screen.finish()
    for undone in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?7h", b"\x1b[?1l", b"\x1b>", b"\x1b[4l", b"\x1b[0m"):
        assert undone in left
    screen.feed(b"\x1b[?1049h\x1b[?1049l\x1b[?25l\x1b[?25h")
    assert b"?" not in screen.finish()


def test_a_silent_guest_leaves_nothing_to_undo() -> None:
    assert TerminalFilter().finish() == b""
