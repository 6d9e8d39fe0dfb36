"""Guest bytes as text that cannot steer a terminal, for panes that show a few lines of them."""

from __future__ import annotations

import re

from xenconsole.widgets.lines import Line, Span, line

_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL)
_NAMES = {"\r": "\\r", "\n": "\\n", "\t": "\\t", "\x1b": "␛", "\x07": "␇", "\x08": "␈", "\x00": "␀", "\x7f": "␡"}


def tail_lines(data: bytes, count: int) -> list[str]:
    """The last `count` lines of console output as plain text: sequences dropped, `\\r` and backspace obeyed roughly."""
    text = _SEQUENCE.sub("", data.decode("utf-8", "replace"))
    lines: list[str] = []
    for raw in text.split("\n"):
        cells: list[str] = []
        at = 0
        for character in raw.rstrip("\r"):
            if character == "\r":
                at = 0
            elif character == "\b":
                at = max(at - 1, 0)
            else:
                for piece in " " * (8 - at % 8) if character == "\t" else character:
                    if piece.isprintable():
                        cells[at : at + 1] = [piece]
                        at += 1
        lines.append("".join(cells).rstrip())
    while lines and not lines[-1]:
        lines.pop()
    return lines[-count:] if count > 0 else []


def visible_bytes(data: bytes, width: int, rows: int) -> list[Line]:
    """The last bytes as text with the control characters shown, broken after each line feed and at `width` cells."""
    out: list[list[Span]] = [[]]
    used = 0
    for character in data.decode("utf-8", "replace"):
        shown = _NAMES.get(character) or (character if character.isprintable() and character != "\ufffd" else "·")
        style = "" if shown == character else "dim"
        size = len(shown) if shown.isascii() else 2 if not style else 1
        if used + size > width:
            out.append([])
            used = 0
        if out[-1] and out[-1][-1].style == style:
            out[-1][-1] = Span(out[-1][-1].text + shown, style)
        else:
            out[-1].append(Span(shown, style))
        used += size
        if character == "\n":
            out.append([])
            used = 0
    if not out[-1]:
        out.pop()
    return [tuple(spans) for spans in out[-rows:]] if rows > 0 else []


def hex_lines(data: bytes, base: int, width: int) -> list[Line]:
    """A hex dump: index of the first byte, bytes, and their text where there is room. Rows hold 16 bytes or 8."""
    step = 16 if width >= 10 + 16 * 4 + 2 else 8
    texts = width >= 10 + step * 4 + 2
    out: list[Line] = []
    for start in range(0, len(data), step):
        row = data[start : start + step]
        digits = " ".join(f"{value:02x}" for value in row).ljust(step * 3 - 1)
        text = "".join(chr(value) if 32 <= value < 127 else "·" for value in row)
        out.append(line(Span(f"{base + start:8x}  ", "dim"), Span(digits), Span(f"  {text}" if texts else "", "dim")))
    return out


def word_lines(data: bytes, base: int) -> list[Line]:
    """A stack as 8-byte words, one a line, with the offset from its top."""
    out: list[Line] = []
    for start in range(0, len(data) - 7, 8):
        value = int.from_bytes(data[start : start + 8], "little")
        text = "".join(chr(b) if 32 <= b < 127 else "·" for b in data[start : start + 8])
        style = "bold" if value >> 47 == 0x1FFFF else "dim" if value == 0 else ""
        out.append(
            (
                Span(f"{base + start:016x} ", "dim"),
                Span(f"+{start:03x}  ", "dim"),
                Span(f"{value:016x}", style),
                Span(f"  {text}", "dim"),
            )
        )
    return out
