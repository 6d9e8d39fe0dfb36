"""TerminalCore over bittty 0.3 (pure Python, WTFPL).

bittty is a whole terminal: it resizes itself, keeps macros and keys, prints, answers dozens of questions. A guest gets a
fraction of it. Three guards stand between:

1. Before the parser: C1 controls become U+FFFD (a UTF-8 guest never means them), a control sequence over CSI_LIMIT and a
   string over STRING_LIMIT characters is skipped to its end, whatever chunks it comes in. That bounds the parser's buffer
   and its caches of whole sequences.
2. After the parser: only the operations in ALLOWED are left in the board's registry; all others do nothing. What could
   repeat itself at the guest's wish (REP) is cut to one line.
3. At the cells: text passes `unicode_cells`, so that every cell is printable and as wide as Textual thinks.

Where bittty departs from xterm in ways that guests notice, it is mended here: mode 1049 clears the alternate screen on the
way in, a screen made lower keeps the cursor's line (the top scrolls off instead of the bottom being cut).
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from bittty import XTERM, Board, WidthPolicy, constants
from bittty import mode_profiles as mp
from bittty.devices.modes import MouseEncoding, MouseProtocol
from bittty.operations import Operation
from bittty.options import EDITING
from bittty.present import Bell, RowsScrolledOff, TitleChanged
from bittty.style import Color, Style
from bittty.video import Cell
from rich.cells import get_character_cell_size

from xenconsole.terminal.core import PLAIN, RGB, CellStyle, Cursor, Line, Modes, Run
from xenconsole.terminal.unicode_cells import MARK, REPLACEMENT, CleanTable, clean_label

HISTORY_LINES = 10_000
CSI_LIMIT = 96
STRING_LIMIT = 2048
REPLY_LIMIT = 1024
TITLE_LIMIT = 128
MARKS_PER_CELL = 4
SLICE = 1024
"""Characters parsed at a time: a few ms at the worst a guest can ask for."""

ALLOWED = frozenset(
    """PRINT C0_BEL C0_BS C0_HT C0_LF C0_VT C0_FF C0_CR C0_CRLF C0_SO C0_SI C0_DEL ST IND RI NEL HTS TBC CHT CBT DECST8C
    CUU CUD CUF CUB CNL CPL CHA HPA HPR HPB VPA VPR VPB CUP HVP SAVE RESTORE DECSCUSR DECSTBM DECSLRM
    ED EL ECH ICH DCH IL DL SU SD SL SR REP DECALN RIS DECSTR SGR SM RM DECSET DECRST XTSAVE XTRESTORE DECKPAM DECKPNM
    SCS_G0 SCS_G1 SCS_G2 SCS_G3 SS2 SS3 LS2 LS3 SET_ICON_AND_WINDOW_TITLE SET_WINDOW_TITLE DA1 DA2 DSR CPR""".split()  # noqa: SIM905  # a list of names reads best as words
)
"""Operations a guest may ask for. The last four are all that is ever answered."""

MODE_CAPABILITIES = frozenset(
    {
        mp.ANSI_INSERT, mp.ANSI_NEWLINE, mp.DEC_CURSOR_APPLICATION, mp.DEC_REVERSE_SCREEN, mp.DEC_ORIGIN, mp.DEC_AUTOWRAP,
        mp.DEC_CURSOR_VISIBLE, mp.DEC_NUMERIC_KEYPAD, mp.XTERM_CURSOR_BLINK, mp.XTERM_ALT_SCREEN_47,
        mp.XTERM_ALT_SCREEN_1047, mp.XTERM_SAVE_CURSOR_1048, mp.XTERM_ALT_SCREEN_1049, mp.XTERM_MOUSE_X10,
        mp.XTERM_MOUSE_NORMAL, mp.XTERM_MOUSE_BUTTON, mp.XTERM_MOUSE_ANY, mp.XTERM_MOUSE_SGR, mp.XTERM_FOCUS,
        mp.XTERM_ALTERNATE_SCROLL, mp.XTERM_BRACKETED_PASTE,
    }
)  # fmt: skip

MODEL = replace(
    XTERM,
    name="xenconsole",
    da1_response="\x1b[?62;22c",  # a VT220 with colour
    da2_response="\x1b[>1;10;0c",
    mode_capabilities=MODE_CAPABILITIES,
    options=frozenset(),
    control_capabilities=EDITING,
    power_on_modes=frozenset(),
    fixed_modes=frozenset(),
    charsets=frozenset({"B", "A", "0"}),
    reflows=True,
)

_C1 = re.compile("[\x80-\x9f]")
_LONG = re.compile(
    rf"\x1b\[[^@-~\x18\x1a\x1b]{{{CSI_LIMIT},}}(?P<csi>[@-~\x18\x1a]?)"
    rf"|\x1b(?:\](?![PR])|[P_^X])[^\x07\x18\x1a\x1b]{{{STRING_LIMIT},}}(?P<string>[\x07\x18\x1a]?)"
)
_CSI_END = re.compile(r"[@-~\x18\x1a]|(?=\x1b)")
_STRING_END = re.compile(r"[\x07\x18\x1a]|(?=\x1b)")
_FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_MOUSE = {
    MouseProtocol.X10: "x10",
    MouseProtocol.NORMAL: "normal",
    MouseProtocol.BUTTON: "button",
    MouseProtocol.ANY: "any",
}


class _RichWidths(WidthPolicy):  # type: ignore[misc]  # bittty has no type information
    """Columns as Textual counts them."""

    def width(self, char: str) -> int:
        return 2 if get_character_cell_size(char) == 2 else 1


class _Replies:
    """The far end of bittty's host cable: keeps what it answers, up to REPLY_LIMIT bytes between two takes."""

    closed = False

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: str) -> int:
        encoded = data.encode("ascii", "replace")
        if len(self.data) + len(encoded) <= REPLY_LIMIT:
            self.data += encoded
        return len(data)

    def flush(self) -> None: ...

    def resize(self, rows: int, cols: int) -> None: ...


class _GuestBoard(Board):  # type: ignore[misc]
    """A board whose printed text is cleaned first."""

    clean: CleanTable

    def print_text(self, text: str) -> None:
        write, style = self.blitter.write_text, self.style.current
        if text.isascii():
            write(text, style)
            return
        first, *rest = text.translate(self.clean).split(MARK)
        if first:
            write(first, style)
        for part in rest:
            self._attach(part[0])
            if len(part) > 1:
                write(part[1:], style)

    def _attach(self, mark: str) -> None:
        """Join a combining mark to the cell before the cursor; at the line's begin there is none."""
        page, y, x = self.blitter.current_page, self.cursor.y, self.cursor.x - 1
        row: list[Cell] = page.grid[y]
        if not 0 <= x < len(row):
            return
        x = page.owner_x(x, y)
        style, char = row[x]
        if len(char) <= MARKS_PER_CELL:
            row[x] = (style, type(char)(char + mark))
            page._touch_row(y)


def _color(color: Color | None) -> int | None:
    if color is None or color.mode == "default":
        return None
    if color.mode == "indexed":
        return int(color.value)
    red, green, blue = map(int, color.value)
    return RGB | red << 16 | green << 8 | blue


@lru_cache(maxsize=4096)
def _cell_style(style: Style) -> CellStyle:
    return CellStyle(
        fg=_color(style.fg),
        bg=_color(style.bg),
        bold=bool(style.bold),
        dim=bool(style.dim),
        italic=bool(style.italic),
        underline=bool(style.underline),
        blink=bool(style.blink),
        reverse=bool(style.reverse),
        conceal=bool(style.conceal),
        strike=bool(style.strike),
    )


def _runs(styles: Sequence[Style], chars: Sequence[str]) -> Line:
    """Cells as runs of one style. Neighbours mostly share the style's very object, which is what makes groupby fast."""
    runs: list[Run] = []
    start = 0
    for style, group in groupby(styles):
        end = start + len(list(group))
        runs.append(("".join(chars[start:end]), _cell_style(style)))
        start = end
    return tuple(runs)


def _kept(cells: Sequence[Cell]) -> Line:
    """A line as history keeps it: without its trailing plain blanks. The hot path of a flood."""
    styles, chars = zip(*cells, strict=True)
    text = "".join(chars)
    if len(text) == len(chars):  # else wide characters or marks: columns and characters part
        size = len(text.rstrip(" "))
        last = styles[-1]
        if size < len(text) and _cell_style(last) == PLAIN:
            blank = styles[size:]
            if blank.count(last) == len(blank):
                styles, chars = styles[:size], chars[:size]
                if not styles:
                    return ()
                if styles.count(styles[0]) == size:
                    return ((text[:size], _cell_style(styles[0])),)
        return _runs(styles, chars)
    line = _runs(styles, chars)
    text, style = line[-1]
    text = text.rstrip(" ") if style == PLAIN else text
    return (*line[:-1], (text, style)) if text else line[:-1]


class BitttyCore:
    """A TerminalCore of `columns` by `rows`, keeping `history_lines` lines that scrolled off."""

    keeps_scrollback = True  # asked for by bittty of its display

    def __init__(self, columns: int = 80, rows: int = 24, *, history_lines: int = HISTORY_LINES) -> None:
        self._board = board = _GuestBoard(width=columns, height=rows, model=MODEL, width_policy=_RichWidths())
        board.clean = CleanTable()
        self._replies = board.host.connection = _Replies()
        board.attach_display(self)
        self._restrict()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._skip: re.Pattern[str] | None = None
        self._lines: deque[Line] = deque(maxlen=history_lines)
        self._lines_end = 0
        self._title = ""
        self._bells = 0
        self._faults = 0
        self._page = board.blitter.main_page
        self._reverse = False
        self._seen = 0

    def _restrict(self) -> None:
        registry: dict[str, Callable[[Operation], None]] = self._board.registry
        for name in registry.keys() - ALLOWED:
            del registry[name]
        blitter, set_modes = self._board.blitter, registry["DECSET"]

        def repeat(operation: Operation) -> None:
            blitter.repeat_last_character(min(operation.args[0], blitter.width))

        def decset(operation: Operation) -> None:
            before = blitter.in_alt_screen
            set_modes(operation)
            if blitter.in_alt_screen and not before and 1049 in operation.args[0]:
                for y in range(blitter.height):
                    blitter.alt_page.clear_line(y, constants.ERASE_ALL, 0, "")

        registry["REP"], registry["DECSET"] = repeat, decset

    # what bittty tells its display

    def present(self, event: object) -> None:
        if isinstance(event, RowsScrolledOff):
            self._lines.extend([_kept(line.cells) for line in event.lines])
            self._lines_end += len(event.lines)
        elif isinstance(event, Bell):
            self._bells += 1
        elif isinstance(event, TitleChanged):
            self._title = clean_label(event.title, TITLE_LIMIT)
        # the rest is nothing that a console carries out; a guest does not erase its own history either (ED 3)

    # input

    def feed(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        if not text.isascii():
            text = _C1.sub(REPLACEMENT, text)
        for start in range(0, len(text), SLICE):
            self._feed(text[start : start + SLICE])

    def _feed(self, text: str) -> None:
        if self._skip is not None:
            found = self._skip.search(text)
            if found is None:
                return
            text, self._skip = text[found.end() :], None
        parser = self._board.parser
        if parser.buffer:  # an open sequence is taken up again from its start, so that its whole length is seen
            text = parser.buffer + text
            parser.reset()
        if "\x1b" in text:
            text = _LONG.sub(self._cut, text)
        try:
            parser.feed(text)
        except _FAULTS:
            self._faults += 1
            parser.reset()

    def _cut(self, match: re.Match[str]) -> str:
        end = match["csi"] or match["string"]
        if not end and match.end() == len(match.string):
            self._skip = _CSI_END if match["csi"] is not None else _STRING_END
        return ""

    def interrupt(self, text: str) -> None:
        self._decoder.reset()
        self._skip = None
        self._board.parser.reset()
        self._feed("\x1b[0m\x0f")
        if not self._board.blitter.in_alt_screen:
            start = "" if self._board.cursor.x == 0 else "\r\n"
            self._feed(f"{start}\x1b[0;7m {clean_label(text, self.columns - 2)} \x1b[0m\r\n")

    def resize(self, columns: int, rows: int) -> None:
        columns, rows = max(columns, 2), max(rows, 1)
        if (columns, rows) == (self.columns, self.rows):
            return
        blitter, cursor = self._board.blitter, self._board.cursor
        if columns == blitter.width and rows <= cursor.y:  # bittty would cut the bottom; where it wraps anew it does not
            lines = cursor.y - rows + 1
            page = blitter.current_page
            if not blitter.in_alt_screen:
                self.present(RowsScrolledOff(tuple(page.line(y) for y in range(lines))))
            page.scroll_region_up(0, blitter.height - 1, lines)
            cursor.set_position(None, cursor.y - lines)
        self._board.resize(columns, rows)

    # what is seen

    @property
    def columns(self) -> int:
        return int(self._board.width)

    @property
    def rows(self) -> int:
        return int(self._board.height)

    @property
    def cursor(self) -> Cursor:
        board = self._board
        return Cursor(board.cursor.display_x, board.cursor.y, board.modes.cursor_visible)

    @property
    def modes(self) -> Modes:
        board = self._board
        modes: Any = board.modes
        return Modes(
            application_cursor=modes.cursor_application_mode,
            application_keypad=modes.application_keypad,
            newline=modes.linefeed_newline_mode,
            bracketed_paste=modes.bracketed_paste,
            focus=modes.focus_reporting,
            alternate_screen=board.blitter.in_alt_screen,
            alternate_scroll=modes.alternate_scroll_mode,
            mouse=_MOUSE.get(board.mouse.protocol, ""),
            mouse_sgr=board.mouse.encoding is MouseEncoding.SGR,
        )

    @property
    def title(self) -> str:
        return self._title

    @property
    def bells(self) -> int:
        return self._bells

    @property
    def faults(self) -> int:
        return self._faults

    def screen(self, y: int) -> Line:
        cells: list[Cell] = self._board.blitter.main_page.grid[y]
        line = _runs(*zip(*cells, strict=True))
        if self._board.modes.reverse_screen:
            return tuple((text, replace(style, reverse=not style.reverse)) for text, style in line)
        return line

    @property
    def history_start(self) -> int:
        return self._lines_end - len(self._lines)

    @property
    def history_end(self) -> int:
        return self._lines_end

    def history(self, number: int) -> Line:
        index = number - self.history_start
        return self._lines[index] if 0 <= index < len(self._lines) else ()

    def take_dirty(self) -> frozenset[int]:
        page, reverse = self._board.blitter.main_page, self._board.modes.reverse_screen
        if page is not self._page or reverse != self._reverse:
            self._page, self._reverse = page, reverse
            self._seen = page.observe()
            return frozenset(range(page.height))
        dirty = page.dirty_rows(self._seen)
        self._seen = page.observe()
        return frozenset(dirty)

    def take_replies(self) -> bytes:
        replies = bytes(self._replies.data)
        self._replies.data.clear()
        return replies
