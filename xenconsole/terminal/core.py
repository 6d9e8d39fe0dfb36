"""What the console asks of a terminal emulator: bytes of a guest in, printable cells out.

The protocol is small so that the emulator behind it can be changed. Whatever stands behind it owes four things, since the
bytes come from a guest that may be hostile from its first instruction:

- every character that `screen` or `history` hands out is printable; no control character and no sequence gets through;
- memory is bounded, however long a sequence, a title or a flood is;
- nothing the guest sends makes it answer with more than device attributes, status and the cursor's position, and these
  replies are handed to the caller (`take_replies`), who gives them to that guest alone;
- no input raises. A fault of the emulator is counted in `faults`, the sequence is dropped and it goes on.

A line is a tuple of runs, each a text in one style. A wide character stands for its two columns, a combining mark follows
its base in the same run, so the columns of a run are `rich.cells.cell_len(text)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

RGB = 0x1000000
"""Set in a colour that is 0xRRGGBB; without it a colour is an index of the 256-colour palette."""


@dataclass(frozen=True, slots=True)
class CellStyle:
    """How a cell looks. A colour is None (the terminal's own), 0–255, or RGB | 0xRRGGBB."""

    fg: int | None = None
    bg: int | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    blink: bool = False
    reverse: bool = False
    conceal: bool = False
    strike: bool = False


PLAIN = CellStyle()

Run = tuple[str, CellStyle]
Line = tuple[Run, ...]


def line_text(line: Line) -> str:
    """The line as it reads, trailing blanks included."""
    return "".join(text for text, _ in line)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next character goes (0-based column and row), and whether the guest shows it."""

    x: int
    y: int
    visible: bool = True


@dataclass(frozen=True, slots=True)
class Modes:
    """What the guest asked of the keyboard, the mouse and the screen."""

    application_cursor: bool = False  # DECCKM: arrows send SS3
    application_keypad: bool = False  # DECKPAM
    newline: bool = False  # LNM: Enter sends CR LF
    bracketed_paste: bool = False
    focus: bool = False  # 1004: focus in and out are reported
    alternate_screen: bool = False
    alternate_scroll: bool = False  # 1007: on the alternate screen the wheel sends arrows
    mouse: str = ""  # "" none, "x10" presses, "normal" presses and releases, "button" and drags, "any" and moves
    mouse_sgr: bool = False  # 1006; else the report is X10's, to column and row 223


class TerminalCore(Protocol):
    """A terminal emulator for one guest."""

    @property
    def columns(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cursor(self) -> Cursor: ...
    @property
    def modes(self) -> Modes: ...
    @property
    def title(self) -> str:
        """What the guest named its window: printable, at most 128 characters."""

    @property
    def bells(self) -> int:
        """BEL characters so far."""

    @property
    def faults(self) -> int:
        """Errors of the emulator itself, each of which cost a sequence."""

    def feed(self, data: bytes) -> None:
        """Apply output of the guest; UTF-8 may be split anywhere."""

    def interrupt(self, text: str) -> None:
        """The stream breaks here: an open sequence is dropped, colours end, and `text` is shown on a line of its own
        (on the alternate screen it is left out: it would stand in the middle of a program's picture)."""

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; lines that were wrapped are wrapped anew."""

    def screen(self, y: int) -> Line:
        """Row `y` of the screen, exactly `columns` wide."""

    @property
    def history_start(self) -> int:
        """Number of the oldest line kept; numbers count from the guest's first line and never change."""

    @property
    def history_end(self) -> int:
        """One past the newest line that scrolled off."""

    def history(self, number: int) -> Line:
        """A line that scrolled off, trailing blanks cut; empty when it is no longer kept."""

    def take_dirty(self) -> frozenset[int]:
        """Rows of the screen changed since the last call."""

    def take_replies(self) -> bytes:
        """Answers to the guest's questions since the last call."""
