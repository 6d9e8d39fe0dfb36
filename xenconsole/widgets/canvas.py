"""A canvas of braille dots, two by four a cell, turned into lines. Dots are square where a cell is twice as high as wide."""

from __future__ import annotations

from itertools import groupby

from xenconsole.widgets.lines import Line, Span

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800


class Canvas:
    """`width` by `height` cells. A cell has one style: that of the highest `rank` drawn in it."""

    def __init__(self, width: int, height: int) -> None:
        self.width = max(width, 0)
        self.height = max(height, 0)
        self._dots = [bytearray(self.width) for _ in range(self.height)]
        self._text: dict[tuple[int, int], str] = {}
        self._styles: dict[tuple[int, int], tuple[int, str, str]] = {}

    @property
    def dots(self) -> tuple[int, int]:
        """Size in dots."""
        return self.width * 2, self.height * 4

    def dot(self, x: int, y: int, style: str = "", rank: int = 0, field: str = "") -> None:
        """Set a dot; one outside is left out."""
        cell = (x >> 1, y >> 2)
        if not (0 <= x < self.width * 2 and 0 <= y < self.height * 4):
            return
        self._dots[cell[1]][cell[0]] |= _BITS[y & 3][x & 1]
        if rank >= self._styles.get(cell, (-1, "", ""))[0]:
            self._styles[cell] = (rank, style, field)

    def put(self, column: int, row: int, text: str, style: str = "", field: str = "") -> None:
        """Write characters of one cell each over the dots; what falls outside is left out."""
        for offset, character in enumerate(text):
            if 0 <= column + offset < self.width and 0 <= row < self.height:
                self._text[column + offset, row] = character
                self._styles[column + offset, row] = (1 << 30, style, field)

    def lines(self) -> list[Line]:
        """The canvas as lines, neighbours of one style joined."""
        out: list[Line] = []
        for row, dots in enumerate(self._dots):
            cells = []
            for column, bits in enumerate(dots):
                character = self._text.get((column, row)) or (chr(BLANK | bits) if bits else " ")
                _, style, field = self._styles.get((column, row), (0, "", ""))
                cells.append((character, (style, field)))
            spans = []
            for (style, field), run in groupby(cells, key=lambda cell: cell[1]):
                spans.append(Span("".join(character for character, _ in run), style, field))
            out.append(tuple(spans))
        return out
