"""Which characters of a guest may stand in a cell, and how many columns each takes.

Widths are rich's, since Textual lays out strips by them: a guest cannot push a row out of line by a character that two
tables disagree about. What is not printable becomes U+FFFD, the format characters (bidirectional overrides, joiners,
variation selectors) vanish, and a combining mark is announced by MARK so that it can join the cell before it.
"""

from __future__ import annotations

import unicodedata

from rich.cells import get_character_cell_size

MARK = "\x01"
"""Stands before each character of no width in cleaned text; no cleaned text has it otherwise."""

REPLACEMENT = "\ufffd"
_REMEMBERED = 8192
"""Code points whose answer is kept; text of any language fits, a guest that prints all of Unicode does not grow us."""


def _answer(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Zs":
        return char if char == "\u3000" else " "
    if category == "Cf" or 0xFE00 <= ord(char) <= 0xFE0F or 0xE0100 <= ord(char) <= 0xE01EF:
        return ""
    private = 0xE000 <= ord(char) <= 0xF8FF  # line-drawing symbols of prompts live there
    if not (char.isprintable() or private):
        return REPLACEMENT
    return char if get_character_cell_size(char) else MARK + char


class CleanTable(dict[int, str]):
    """A table for `str.translate` that fills itself."""

    def __missing__(self, codepoint: int) -> str:
        answer = _answer(chr(codepoint))
        if len(self) < _REMEMBERED:
            self[codepoint] = answer
        return answer


def clean_label(text: str, limit: int) -> str:
    """A title as one printable line of at most `limit` characters."""
    return "".join(c for c in text[: limit * 4] if c.isprintable() and get_character_cell_size(c))[:limit]
