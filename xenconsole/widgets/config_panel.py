"""The config tab: what the domain was made from, and its own subtree of xenstore."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import chop_cells

from xenconsole.units import printable
from xenconsole.widgets.lines import Line, Span, line
from xenconsole.widgets.pane import Pane


def wrap(label: Span, value: str, width: int) -> list[Line]:
    """A label and its value, which goes on below itself where the line ends."""
    room = max(width - len(label.text), 8)
    pieces = chop_cells(value, room) or [""]
    return [line(label if at == 0 else Span(" " * len(label.text)), piece) for at, piece in enumerate(pieces)]


def tree_lines(entries: Sequence[tuple[str, str]], width: int) -> list[Line]:
    """Paths of xenstore as a tree, the common beginning once on top; an empty directory is no entry of its own."""
    if not entries:
        return [line(("nothing in xenstore yet", "dim"))]
    parents = {path.rpartition("/")[0] for path, _ in entries}
    shown = [(path, value) for path, value in entries if value or path not in parents] or list(entries)
    paths = sorted((tuple(path.strip("/").split("/")), value) for path, value in shown)
    first, last = paths[0][0], paths[-1][0]
    common = 0
    while common < min(len(first), len(last)) - 1 and first[common] == last[common]:
        common += 1
    out: list[Line] = [line((printable("/" + "/".join(first[:common])), "bold"))]
    before: tuple[str, ...] = ()
    for parts, value in paths:
        rest = parts[common:]
        same = 0
        while same < min(len(rest) - 1, len(before)) and rest[same] == before[same]:
            same += 1
        for depth in range(same, len(rest) - 1):
            out.append(line(Span("  " * depth + "  "), (printable(rest[depth]), "bold")))
        label = Span("  " * (len(rest) - 1) + "  " + printable(rest[-1]) + "  ", "dim")
        out += wrap(label, printable(value) if value else '""', width)
        before = rest
    return out


class ConfigPane(Pane):
    """The keys of the domain's xl.cfg."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("configuration", id=id)
        self.values: dict[str, str] = {}

    def show(self, values: dict[str, str]) -> None:
        if values != self.values:
            self.values = values
            self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if not self.values:
            return [line(("made without a configuration file", "dim"))]
        label = max(len(key) for key in self.values) + 2
        out: list[Line] = []
        for key, value in self.values.items():
            out += wrap(Span(f"{printable(key):<{label}}", "dim"), printable(value), width)
        return out


class XenstorePane(Pane):
    """The domain's subtree, as xenstore-ls shows it."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("xenstore", id=id)
        self.entries: tuple[tuple[str, str], ...] = ()

    def show(self, entries: tuple[tuple[str, str], ...]) -> None:
        if entries != self.entries:
            self.entries = entries
            self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        return tree_lines(self.entries, width)
