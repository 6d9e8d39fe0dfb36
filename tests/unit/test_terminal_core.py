"""The terminal core as guests use it: what is written where, in which style, and what never gets through."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from xenconsole.terminal.bittty_core import CSI_LIMIT, STRING_LIMIT, BitttyCore
from xenconsole.terminal.core import RGB, CellStyle, TerminalCore, line_text


def core_of(*chunks: bytes, columns: int = 20, rows: int = 4, history_lines: int = 100) -> BitttyCore:
    core = BitttyCore(columns, rows, history_lines=history_lines)
    for chunk in chunks:
        core.feed(chunk)
    return core


def picture(core: TerminalCore) -> list[str]:
    return [line_text(core.screen(y)).rstrip() for y in range(core.rows)]


def past(core: TerminalCore) -> list[str]:
    return [line_text(core.history(n)) for n in range(core.history_start, core.history_end)]


def test_it_is_a_terminal_core() -> None:
    core: TerminalCore = BitttyCore()
    assert (core.columns, core.rows) == (80, 24)


def test_lines_scroll_into_history_with_their_styles() -> None:
    core = core_of(b"".join(b"\x1b[3%dmline %d\x1b[m\r\n" % (n, n) for n in range(6)))
    assert picture(core) == ["line 3", "line 4", "line 5", ""]
    assert past(core) == ["line 0", "line 1", "line 2"]
    assert core.history(1) == (("line 1", CellStyle(fg=1)),)


def test_history_forgets_its_oldest_lines_and_keeps_their_numbers() -> None:
    core = core_of(b"".join(b"%d\r\n" % n for n in range(200)), history_lines=10)
    assert (core.history_start, core.history_end) == (187, 197)
    assert line_text(core.history(190)) == "190"
    assert core.history(3) == ()


def test_a_guest_does_not_erase_its_history() -> None:
    assert past(core_of(b"1\r\n2\r\n3\r\n4\r\n5\r\n", b"\x1b[3J\x1b[2J\x1b[H")) == ["1", "2"]


@pytest.mark.parametrize(
    ("sgr", "style"),
    [
        (b"1;4", CellStyle(bold=True, underline=True)),
        (b"38;5;208", CellStyle(fg=208)),
        (b"48;2;1;2;3", CellStyle(bg=RGB | 0x010203)),
        (b"7;9;3;2", CellStyle(reverse=True, strike=True, italic=True, dim=True)),
        (b"97;100", CellStyle(fg=15, bg=8)),
        (b"31;0", CellStyle()),
    ],
)
def test_colours_and_attributes(sgr: bytes, style: CellStyle) -> None:
    assert core_of(b"\x1b[" + sgr + b"mX").screen(0)[0][1] == style


def test_utf8_may_be_split_anywhere() -> None:
    text = "añ€漢😀".encode()
    core = core_of(*(bytes([byte]) for byte in text))
    assert picture(core)[0] == "añ€漢😀"
    assert core.cursor.x == 7


def test_a_wide_character_wraps_whole_and_keeps_the_row_in_width() -> None:
    core = core_of("漢漢漢".encode(), columns=5)
    assert picture(core)[:2] == ["漢漢", "漢"]
    assert {cell_len(line_text(core.screen(y))) for y in range(4)} == {5}


def test_a_combining_mark_joins_its_base() -> None:
    core = core_of("e\u0301漢\u0302x".encode())
    assert picture(core)[0] == "e\u0301漢\u0302x"
    assert core.cursor.x == 4
    assert cell_len(line_text(core.screen(0))) == 20


def test_characters_that_are_not_printable_do_not_get_through() -> None:
    core = core_of("a\u202eb\u00a0c\u200d\ufe0fd\u0085\u009b31me\u2028f".encode(), b"\xff\x01\x02\x7f")
    assert picture(core)[0] == "ab cd\ufffd\ufffd31me\ufffdf\ufffd"


def test_scroll_region() -> None:
    core = core_of(b"a\r\nb\r\nc\r\nd", b"\x1b[2;3r\x1b[3;1H\nX")
    assert picture(core) == ["a", "c", "X", "d"]
    assert past(core) == []


def test_alternate_screen_is_blank_and_gives_the_old_one_back() -> None:
    core = core_of(b"shell", b"\x1b[?1049hvi", b"\x1b[?1049l", b"\x1b[?1049h")
    assert core.modes.alternate_screen
    assert picture(core) == ["", "", "", ""]
    core.feed(b"\x1b[?1049l")
    assert picture(core)[0] == "shell"
    assert not core.modes.alternate_screen


def test_modes_that_keys_and_mouse_need() -> None:
    core = core_of(b"\x1b[?1;2004;1002;1006;1004h\x1b=\x1b[20h")
    modes = core.modes
    assert (modes.application_cursor, modes.bracketed_paste, modes.mouse, modes.mouse_sgr) == (True, True, "button", True)
    assert (modes.focus, modes.application_keypad, modes.newline) == (True, True, True)
    core.feed(b"\x1bc")
    assert core.modes == BitttyCore().modes


def test_only_attributes_status_and_position_are_answered() -> None:
    core = core_of(b"ab\x1b[6n\x1b[c\x1b[>c\x1b[5n")
    assert core.take_replies() == b"\x1b[1;3R\x1b[?62;22c\x1b[>1;10;0c\x1b[0n"
    core.feed(
        b"\x1b[?1$p\x1bP$qm\x1b\\\x1b[>q\x1b]10;?\x07\x1b]52;c;?\x07\x1b[21t\x1b[18t\x1b[=c\x05\x1b[1;1;1;1;4;4*y\x1bP+q544e\x1b\\\x1bZ"
    )
    assert core.take_replies() in (b"", b"\x1b[?62;22c")


def test_a_guest_that_asks_without_end_fills_no_memory() -> None:
    assert len(core_of(b"\x1b[c" * 10_000).take_replies()) <= 1024


def test_the_title_is_one_printable_line() -> None:
    core = core_of(b"\x1b]2;top\r\n\xe2\x80\xaeof the \tworld\x07" + b"\x1b]0;" + b"x" * 500 + b"\x07")
    assert core.title == "x" * 128
    assert core_of(b"\x1b]2;a\x1b]2;b\x07").title == "b"


def test_the_bell_is_counted_but_not_within_a_title() -> None:
    assert core_of(b"\x07a\x07\x1b]0;t\x07").bells == 2


@pytest.mark.parametrize("size", [1, 7, 1024, 1 << 20])
@pytest.mark.parametrize(
    ("head", "tail"), [(b"\x1b[", b"m"), (b"\x1b]2;", b"\x07"), (b"\x1bP", b"\x1b\\"), (b"\x1b_", b"\x1b\\")]
)
def test_an_endless_sequence_is_skipped_to_its_end(head: bytes, tail: bytes, size: int) -> None:
    data = head + b"3;" * (STRING_LIMIT * 3) + tail + b"seen"
    core = core_of(*(data[i : i + size] for i in range(0, len(data), size)))
    assert picture(core)[0] == "seen"
    assert core.bells == 0
    assert core.faults == 0


def test_an_endless_sequence_is_not_kept() -> None:
    for head in (b"\x1b[", b"\x1b]0;", b"\x1bP"):
        core = core_of(head, *[b"1" * 5000] * 20)
        assert len(core._board.parser.buffer) <= STRING_LIMIT + CSI_LIMIT


def test_plain_text_after_the_linux_palette_reset_is_no_string() -> None:
    core = core_of(b"\x1b]R" + b"x" * (STRING_LIMIT * 2), columns=80, rows=60)
    assert line_text(core.screen(51)).rstrip() == "x" * 16


def test_a_guest_does_not_resize_its_terminal() -> None:
    core = core_of(b"\x1b[?40h\x1b[?3h\x1b[8;50;200t\x1b[132$|\x1b[?95h\x1b[?2l")
    assert (core.columns, core.rows) == (20, 4)


def test_only_changed_rows_are_dirty() -> None:
    core = core_of(b"a\r\nb")
    core.take_dirty()
    assert core.take_dirty() == frozenset()
    core.feed(b"\x1b[3;1Hx")
    assert core.take_dirty() == {2}
    core.feed(b"\x1b[?1049h")
    assert core.take_dirty() == {0, 1, 2, 3}
    core.feed(b"\x1b[?5h")
    assert core.take_dirty() == {0, 1, 2, 3}


def test_reverse_screen_turns_every_cell() -> None:
    core = core_of(b"a\x1b[7mb\x1b[?5h")
    assert [style.reverse for _, style in core.screen(0)] == [True, False, True]


def test_a_narrower_screen_wraps_anew_and_widens_back() -> None:
    core = core_of(b"abcdefghijklmnop\r\n$ ")
    core.resize(8, 4)
    assert picture(core)[:3] == ["abcdefgh", "ijklmnop", "$"]
    core.resize(20, 4)
    assert picture(core)[:2] == ["abcdefghijklmnop", "$"]


def test_a_lower_screen_keeps_the_cursors_line() -> None:
    core = core_of(b"a\r\nb\r\nc\r\n$ ")
    core.resize(20, 2)
    assert picture(core) == ["c", "$"]
    assert past(core) == ["a", "b"]
    assert (core.cursor.x, core.cursor.y) == (2, 1)


def test_an_interruption_stands_on_its_own_line_and_ends_colours_and_sequences() -> None:
    core = core_of(b"\x1b[31mred\x1b]2;open")
    core.interrupt("3 MiB not shown")
    core.feed(b"after")
    assert picture(core)[:3] == ["red", " 3 MiB not shown", "after"]
    assert core.screen(1)[0][1] == CellStyle(reverse=True)
    assert core.screen(2)[0][1] == CellStyle()


def test_an_interruption_leaves_a_full_screen_programs_picture_alone() -> None:
    core = core_of(b"\x1b[?1049hvi")
    core.interrupt("gap")
    assert picture(core)[0] == "vi"


def test_line_drawing_and_repetition() -> None:
    core = core_of(b"\x1b(0lqk\x1b(B\x1b[2b-\x1b[999999b")
    assert picture(core)[0] == "┌─┐" + "-" * 17
    assert picture(core)[1] == "-" * 4
