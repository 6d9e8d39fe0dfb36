"""Beside the list of disks: what a disk is made of, the files on it, and its bytes."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from emulator.control.storageviews import BLOCK_KINDS, DirectoryView, DiskBlockMap, DiskView, FileChunk, FileView
from xenconsole.units import fit, printable, size
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import ListPane, Pane
from xenconsole.widgets.text import hex_lines

GLYPHS: dict[str, tuple[str, str]] = {"zero": ("·", "dim"), "base": ("░", "graph-low"), "own": ("█", "graph")}
PARTLY = "▓"
"""A piece of which less than half is the disk's own."""
WORDS = {"zero": "never written", "base": "the base's", "own": "its own"}
PAGE = 4096


class DiskMap(Pane):
    """A cell a piece of the disk. Arrows pick one, and the bytes follow."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right", "move(1, 0)", "pick", show=False, tooltip="the next piece of the disk", id="disk-map.right"),
        Binding("left", "move(-1, 0)", "pick", show=False, tooltip="the piece before", id="disk-map.left"),
    ]
    keys = "arrows pick a piece"

    class Picked(Message):
        """A piece of the disk was picked."""

        def __init__(self, offset: int) -> None:
            super().__init__()
            self.offset = offset

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("block map", id=id)
        self.view: DiskBlockMap | None = None
        self.disk: DiskView | None = None
        self.picked = -1

    def show(self, disk: DiskView | None, view: DiskBlockMap | None) -> None:
        if disk is None or self.disk is None or disk.name != self.disk.name:
            self.picked = -1
        self.disk, self.view = disk, view
        self.set_title(f"block map of {disk.name}" if disk is not None else "block map")
        self.rebuild()

    @property
    def cells(self) -> int:
        """How many pieces there is room for."""
        width, height = self.content_size
        return max(self._columns(width) * max(height - len(BLOCK_KINDS) - 3, 1), 1)

    @staticmethod
    def _columns(width: int) -> int:
        return max((width - 10) // 8 * 8, 8)

    def build(self, width: int, height: int) -> Sequence[Line]:
        view, disk = self.view, self.disk
        if disk is None:
            return [line(("no disk is chosen", "dim"))]
        if view is None or view.name != disk.name or not view.kinds:
            return [line((printable(disk.trouble) or "looking at it …", "dim"))]
        columns, out = self._columns(width), []
        for start in range(0, len(view.kinds), columns):
            cells = [(self._cell(view, at), at == self.picked) for at in range(start, min(start + columns, len(view.kinds)))]
            spans = [Span(f"{size(start * view.block / 1024):>7} ", "dim"), Span("▏", "rule")]
            for ((name, glyph, style), here), run in groupby(cells):
                spans.append(Span(glyph * len(list(run)), f"{style} reverse" if here else style, f"block:{name}"))
            out.append(tuple(spans))
        out.append(line((f"one cell = {size(view.block / 1024, long=True)}", "dim")))
        for name in BLOCK_KINDS:
            glyph, style = GLYPHS[name]
            total = view.totals.get(name, 0)
            share = total * 100 / view.size if view.size else 0.0
            out.append(line(Span(f" {glyph} ", style), Span(fit(WORDS[name], 14), "", f"block:{name}"), f"{size(total / 1024):>7} {share:>5.1f} %"))
        chain = " ← ".join(printable(base) for base in (disk.name, *disk.chain))
        out.append(line(Span("lies over  ", "dim", "disk:chain"), chain if disk.chain else "nothing"))
        return [cut(spans, width) for spans in out]

    @staticmethod
    def _cell(view: DiskBlockMap, at: int) -> tuple[str, str, str]:
        name = BLOCK_KINDS[view.kinds[at]] if view.kinds[at] < len(BLOCK_KINDS) else "zero"
        glyph, style = GLYPHS[name]
        if name == "own" and at < len(view.own) and view.own[at] < 128:
            glyph = PARTLY
        return name, glyph, style

    def action_move(self, across: int, down: int) -> None:
        if self.view is None or not self.view.kinds:
            return
        columns = self._columns(self.content_size.width)
        cell = self.picked + across + down * columns if self.picked >= 0 else 0
        self._pick(cell)

    def _pick(self, cell: int) -> None:
        if self.view is not None and 0 <= cell < len(self.view.kinds):
            self.picked = cell
            self.rebuild()
            self.post_message(self.Picked(cell * self.view.block))

    def action_step(self, delta: int) -> None:
        self.action_move(0, delta)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        columns = self._columns(self.content_size.width)
        if offset is not None and 9 <= offset.x < 9 + columns and self.view is not None and offset.y * columns < len(self.view.kinds):
            event.prevent_default()  # no explanation: a piece was picked
            self._pick((offset.y + self.top) * columns + offset.x - 9)


class FilesPane(ListPane):
    """A directory of the disk. Enter goes into one, or shows a file's bytes; Backspace goes up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "open", show=False, tooltip="into the directory, or the file's bytes", id="files.enter"),
        Binding("backspace,left", "up", "up", show=False, tooltip="the directory above", id="files.up"),
    ]
    keys = "Enter opens · Backspace up"

    class Asked(Message):
        """A path was chosen: a directory to be listed, or a file to be shown."""

        def __init__(self, path: str, directory: bool) -> None:
            super().__init__()
            self.path = path
            self.directory = directory

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("files", id=id)
        self.view: DirectoryView | None = None
        self.why = ""

    def show(self, view: DirectoryView | None, why: str = "") -> None:
        """`why` there is nothing to show."""
        if view is None or self.view is None or (view.disk, view.path) != (self.view.disk, self.view.path):
            self.cursor = self.top = 0
        self.view, self.why = view, why
        self.set_title(f"files of {view.disk}:{view.path}" if view is not None else "files")
        self.rebuild()

    def rows(self) -> int:
        return len(self.view.entries) if self.view is not None else 0

    @property
    def chosen(self) -> FileView | None:
        return self.view.entries[self.cursor] if self.view is not None and self.cursor < len(self.view.entries) else None

    def subtitle(self) -> str:
        view = self.view
        if view is None:
            return ""
        free = f", {size(view.free / 1024)} of {size(view.total / 1024)} free" if view.free >= 0 else ""
        label = f" “{printable(view.label)}”" if view.label else ""
        return f"{view.filesystem or 'no file system'}{label}{free}{', the first of more' if view.cut else ''}"

    def build(self, width: int, height: int) -> Sequence[Line]:
        room = max(width - 46, 12)
        out: list[Line] = [line((f"  {fit('name', room)} {'size':>7} {fit('rights', 10)} {'owner':>9} changed", "dim"))]
        if self.view is None:
            return [*out, line((printable(self.why) or "no disk is chosen", "dim"))]
        for row, entry in enumerate(self.view.entries):
            out.append(self.marked(row, self._entry(entry, room), width))
        return out if self.view.entries else [*out, line(("an empty directory", "dim"))]

    @staticmethod
    def _entry(entry: FileView, room: int) -> Line:
        inside = entry.kind in ("directory", "partition")
        name = printable(entry.name) + ("/" if inside else "")
        if entry.target:
            name += f" {'→ ' if entry.kind == 'link' else ''}{printable(entry.target)}"
        kinds = {"directory": stat.S_IFDIR, "link": stat.S_IFLNK, "device": stat.S_IFBLK, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
        rights = stat.filemode(kinds.get(entry.kind, stat.S_IFREG) | entry.mode) if entry.kind not in ("partition", "unknown") else entry.kind
        changed = datetime.fromtimestamp(min(max(entry.mtime_unix, 0), 1 << 34), UTC).strftime("%Y-%m-%d") if entry.mtime_unix else "–"
        return line(
            Span(fit(name, room) + " ", "bold" if inside else "trouble" if entry.kind == "unknown" else "", f"file:{entry.kind}"),
            Span(f"{size(entry.size / 1024):>7} ", "" if not inside else "dim", "file:size"),
            Span(fit(rights, 10) + " ", "dim", "file:mode"),
            Span(f"{entry.uid:>4}:{entry.gid:<4} ", "dim", "file:mode"),
            Span(changed, "dim", "file:changed"),
        )

    def action_enter(self) -> None:
        if self.view is not None and self.chosen is not None:
            path = f"{self.view.path.rstrip('/')}/{self.chosen.name}"
            self.post_message(self.Asked(path, self.chosen.kind in ("directory", "partition")))

    def action_up(self) -> None:
        if self.view is not None and self.view.path != "/":
            self.post_message(self.Asked(self.view.path.rstrip("/").rpartition("/")[0] or "/", True))


class HexPane(Pane):
    """Bytes of the disk, or of a file on it, from `offset` on. Moving asks for others; Space reads them as text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "text", "text", show=False, tooltip="as text, or as bytes", id="hex.text"),
        Binding("o", "offset", "offset", show=False, tooltip="to an offset in bytes", id="hex.offset"),
    ]
    keys = "o: to an offset · Space: text"

    class OffsetAsked(Message):
        """The offset to go to is to be asked for."""

    class Moved(Message):
        """Other bytes are wanted."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, HexPane.Moved)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("bytes", id=id)
        self.chunk: FileChunk | None = None
        self.why = ""
        self.offset_wanted = 0
        self.as_text = False

    def show(self, chunk: FileChunk | None, why: str = "") -> None:
        self.chunk, self.why = chunk, why
        where = f"{chunk.disk}{':' + chunk.path if chunk.path else ''}" if chunk is not None else ""
        self.set_title(f"bytes of {where}" if where else "bytes")
        self.rebuild()

    @property
    def step(self) -> int:
        """Bytes a row."""
        return 16 if self.content_size.width >= 76 or self.as_text else 8

    @property
    def wanted(self) -> int:
        """Bytes that fill the pane."""
        return max(self.content_size.height, 1) * (max(self.content_size.width, 16) if self.as_text else self.step)

    def subtitle(self) -> str:
        if self.chunk is None:
            return ""
        return f"{self.chunk.offset:#x} of {self.chunk.size:#x}"

    def build(self, width: int, height: int) -> Sequence[Line]:
        chunk = self.chunk
        if chunk is None:
            return [line((printable(self.why) or "choose a piece of the map, or a file", "dim"))]
        if not chunk.data:
            return [line(("empty" if not chunk.size else "the end", "dim"))]
        if self.as_text:
            rows = [line(printable(row.expandtabs(8))) for row in chunk.data.decode("utf-8", "replace").split("\n")]
            return [cut(row, width) for row in rows[:height]]
        return [tuple(span._replace(field="disk:bytes") for span in row) for row in hex_lines(chunk.data, chunk.offset, width)][:height] or [EMPTY]

    def move_to(self, offset: int) -> None:
        size_now = self.chunk.size if self.chunk is not None else 0
        self.offset_wanted = max(min(offset, max(size_now - 1, 0)), 0) // self.step * self.step
        self.post_message(self.Moved())

    def scroll_lines(self, delta: int) -> None:
        self.move_to(self.offset_wanted + delta * self.step)

    def action_page(self, delta: int) -> None:
        self.move_to(self.offset_wanted + delta * max(self.content_size.height - 1, 1) * self.step)

    def action_edge(self, side: int) -> None:
        end = self.chunk.size if self.chunk is not None else 0
        self.move_to(0 if side < 0 else end - self.content_size.height * self.step)

    def action_offset(self) -> None:
        if self.chunk is not None:
            self.post_message(self.OffsetAsked())

    def action_text(self) -> None:
        self.as_text = not self.as_text
        self.post_message(self.Moved())
