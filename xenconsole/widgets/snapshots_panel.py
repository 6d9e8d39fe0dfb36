"""The snapshots tab: what can be gone back to, and the console's last screen of the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from textual.binding import Binding, BindingType

from emulator.control.views import SnapshotView
from xenconsole.units import fit, printable, size, span
from xenconsole.widgets.lines import EMPTY, Line, Span, line
from xenconsole.widgets.pane import ListPane, Pane


class SnapshotList(ListPane):
    """Newest first. `now_unix` is the engine's clock, so that ages are right on any machine."""

    keys = "S takes · R or Enter goes back · d deletes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.restore", "restore", show=False, tooltip="go back to the chosen snapshot", id="snapshots.restore"),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("snapshots", id=id)
        self.snapshots: tuple[SnapshotView, ...] = ()
        self.now_unix = 0.0
        self.asking = ""
        self._chosen_name = ""

    def show(self, snapshots: tuple[SnapshotView, ...], now_unix: float) -> None:
        self.snapshots = tuple(sorted(snapshots, key=lambda s: (-s.taken_unix, s.name)))
        self.now_unix = now_unix
        names = [snapshot.name for snapshot in self.snapshots]
        if self._chosen_name in names:
            self.cursor = names.index(self._chosen_name)
        else:
            self.cursor = min(self.cursor, max(len(names) - 1, 0))
            self._chosen_name = names[self.cursor] if names else ""
        if self.asking and self.asking not in names:
            self.asking = ""
        self.rebuild()

    def forget(self) -> None:
        """Another domain comes: nothing of this one's may be agreed to any more."""
        self.asking = self._chosen_name = ""
        self.cursor = 0
        self.show((), self.now_unix)

    @property
    def chosen(self) -> SnapshotView | None:
        return self.snapshots[self.cursor] if self.cursor < len(self.snapshots) else None

    def rows(self) -> int:
        return len(self.snapshots)

    def choose(self, row: int) -> None:
        row = min(max(row, 0), max(self.rows() - 1, 0))
        if self.snapshots:
            self._chosen_name = self.snapshots[row].name
        self.asking = ""
        super().choose(row)

    def ask(self, name: str) -> None:
        """Say what a restore does, under the list; an empty name takes it back."""
        self.asking = name
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        room = max(width - 44, 8)
        out: list[Line] = [line((f"  {fit('name', room)} taken     ago           size   pages", "dim"))]
        for row, snapshot in enumerate(self.snapshots):
            taken = datetime.fromtimestamp(snapshot.taken_unix).strftime("%H:%M:%S")
            mark = "auto" if snapshot.automatic else ""
            spans = line(
                Span(fit(printable(snapshot.name), room) + " ", "italic" if snapshot.automatic else ""),
                Span(f"{taken} "),
                Span(f"{span(max(self.now_unix - snapshot.taken_unix, 0)):>10} ", "dim"),
                Span(f"{size(snapshot.pages * 4):>7}"),
                Span(f"{snapshot.pages:>8,} ", "dim"),
                Span(mark, "dim"),
            )
            out.append(self.marked(row, spans, width))
        if not self.snapshots:
            out += [EMPTY, line("no snapshot yet"), line(("S keeps the present: memory, vCPUs, events, timers and console", "dim"))]
        if self.asking:
            out += [
                EMPTY,
                line("Go back to ", (printable(self.asking), "bold"), "?"),
                line("The present is snapshotted first, so this can be undone."),
                line(("R", "bold"), " or ", ("y", "bold"), " goes back, ", ("Esc", "bold"), " leaves things as they are."),
            ]
        return out


class SnapshotScreenPane(Pane):
    """The last lines of the console when the chosen snapshot was taken."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("console then", id=id)
        self.snapshot: SnapshotView | None = None

    def show(self, snapshot: SnapshotView | None) -> None:
        if snapshot == self.snapshot:
            return
        self.snapshot = snapshot
        self.set_title(f"console at {snapshot.name}" if snapshot is not None else "console then")
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if self.snapshot is None:
            return [line(("nothing chosen", "dim"))]
        rows = [printable(text) for text in self.snapshot.screen.split("\n")]
        return [line(text) for text in rows] if any(rows) else [line(("the console was empty", "dim"))]
