"""Hostile output: no exception, no fault of the emulator, no row out of width, nothing unprintable, no growth."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from xenconsole.terminal.bittty_core import CSI_LIMIT, REPLY_LIMIT, STRING_LIMIT, BitttyCore
from xenconsole.terminal.core import Line, line_text

_params = st.lists(
    st.sampled_from(
        [b"", b"0", b"1", b"2", b"3", b"5", b"7", b"38", b"48", b"255", b"1049", b"999999999999", b"4:3", b"-1", b"?", b">"]
    ),
    max_size=6,
).map(b";".join)
_csi = st.builds(
    lambda prefix, params, middle, final: b"\x1b[" + prefix + params + middle + final,
    st.sampled_from([b"", b"?", b">", b"=", b"<"]),
    _params,
    st.sampled_from([b"", b"", b"", b" ", b"$", b'"', b"!", b"*", b"'", b"#"]),
    st.integers(0x40, 0x7E).map(lambda n: bytes([n])),
)
_mode = st.builds(
    lambda n, final: b"\x1b[?%d%b" % (n, final),
    st.sampled_from(
        [
            1,
            2,
            3,
            5,
            6,
            7,
            9,
            25,
            40,
            45,
            47,
            66,
            69,
            1000,
            1002,
            1003,
            1006,
            1015,
            1045,
            1047,
            1048,
            1049,
            2004,
            2026,
            2027,
            2048,
        ]
    ),
    st.sampled_from([b"h", b"l", b"s", b"r"]),
)
_string = st.builds(
    lambda head, body, tail: head + body + tail,
    st.sampled_from(
        [
            b"\x1b]0;",
            b"\x1b]2;",
            b"\x1b]4;1;",
            b"\x1b]52;c;",
            b"\x1b]8;;",
            b"\x1bP",
            b"\x1bP1$s",
            b"\x1b_",
            b"\x1b^",
            b"\x1bX",
            b"\x1b]P",
        ]
    ),
    st.binary(max_size=20) | st.just(b"A" * (STRING_LIMIT + 10)),
    st.sampled_from([b"\x07", b"\x1b\\", b"\x9c", b"", b"\x18"]),
)
_escape = st.binary(min_size=1, max_size=2).map(lambda tail: b"\x1b" + tail)
_text = st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))
_plain = st.sampled_from(
    [b"hello world", b"\r\n", b"\n" * 5, b"\t\b\b\r", "漢字仮名交じり".encode(), "e\u0301\u0302\u0303".encode(), b"\x0e\x0f"]
)
_piece = st.one_of(_csi, _mode, _string, _escape, _text, _plain, st.binary(max_size=12))
_size = st.tuples(st.integers(1, 30), st.integers(1, 8))


def check_line(line: Line) -> None:
    for text, _ in line:
        for char in text:
            assert char.isprintable() or 0xE000 <= ord(char) <= 0xF8FF, ascii(text)


def check(core: BitttyCore) -> None:
    assert core.faults == 0
    assert 0 <= core.cursor.x < core.columns
    assert 0 <= core.cursor.y < core.rows
    for y in range(core.rows):
        line = core.screen(y)
        check_line(line)
        assert cell_len(line_text(line)) == core.columns, ascii(line)
    for number in range(core.history_start, core.history_end):
        check_line(core.history(number))
    assert all(char.isprintable() for char in core.title)
    assert len(core._board.parser.buffer) <= STRING_LIMIT + CSI_LIMIT
    replies = core.take_replies()
    assert len(replies) <= REPLY_LIMIT
    assert replies.isascii()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_piece, _size), max_size=25))
def test_whatever_a_guest_says_and_however_the_window_is_pulled(script: list[bytes | tuple[int, int]]) -> None:
    core = BitttyCore(20, 6, history_lines=50)
    for step in script:
        if isinstance(step, bytes):
            core.feed(step)
        else:
            core.resize(*step)
        check(core)
    core.interrupt("gap")
    check(core)


@settings(max_examples=100, deadline=None)
@given(st.lists(_piece, max_size=15).map(b"".join), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_the_picture_does_not_depend_on_how_the_stream_is_cut(data: bytes, cuts: list[int]) -> None:
    whole, pieces = BitttyCore(20, 6), BitttyCore(20, 6)
    whole.feed(data)
    position = turn = 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        pieces.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert [whole.screen(y) for y in range(6)] == [pieces.screen(y) for y in range(6)]
    assert whole.cursor == pieces.cursor
    assert whole.bells == pieces.bells
