"""The storage pool as a tree: each disk under the one it was cloned from, who has it, and how much of the host's disk it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from emulator.control.storageviews import DiskView, StoragePoolView
from xenconsole.units import counted, fit, from_home, gauge, printable, size
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import ListPane


def tree(disks: Sequence[DiskView]) -> list[tuple[int, DiskView]]:
    """The disks with their depth: each below its base, bases by name. A base that is not among them makes no root."""
    named = {disk.name: disk for disk in disks}
    over: dict[str, list[DiskView]] = {}
    roots = []
    for disk in sorted(disks, key=lambda d: (not d.pooled, d.name)):
        base = disk.chain[0] if disk.chain else ""
        if base in named and base != disk.name:
            over.setdefault(base, []).append(disk)
        else:
            roots.append(disk)
    seen: set[str] = set()

    def walk(disk: DiskView, depth: int) -> Iterator[tuple[int, DiskView]]:
        if disk.name not in seen:
            seen.add(disk.name)
            yield depth, disk
            for clone in over.get(disk.name, ()):
                yield from walk(clone, depth + 1)

    rows = [row for root in roots for row in walk(root, 0)]
    return rows + [(0, disk) for disk in disks if disk.name not in seen]  # a circle of bases, which only a damaged pool has


def usage_by_domain(disks: Sequence[DiskView]) -> dict[str, int]:
    """Bytes held of the host's disk by the disks of each domain, the most first; "" for those that nobody has."""
    held: dict[str, int] = {}
    for disk in disks:
        owner = disk.uses[0] if disk.uses else None
        key = f"{owner.domid} {owner.domain}" if owner is not None else ""
        held[key] = held.get(key, 0) + disk.held
    return dict(sorted(held.items(), key=lambda item: (-item[1], item[0])))


class DiskList(ListPane):
    """The cursor keeps to its disk. Lines below the tree say who holds how much."""

    keys = "Enter opens the domain"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("storage pool", id=id)
        self.pool = StoragePoolView()
        self._rows: list[tuple[int, DiskView]] = []
        self._held = ""

    def show(self, pool: StoragePoolView) -> None:
        self.pool, self._rows = pool, tree(pool.disks)
        names = [disk.name for _, disk in self._rows]
        self.cursor = names.index(self._held) if self._held in names else min(self.cursor, max(len(names) - 1, 0))
        self._held = names[self.cursor] if names else ""
        self.set_title(f"storage pool {from_home(pool.folder)}".rstrip())
        self.rebuild()

    @property
    def chosen(self) -> DiskView | None:
        return self._rows[self.cursor][1] if self.cursor < len(self._rows) else None

    def rows(self) -> int:
        return len(self._rows)

    def choose(self, row: int) -> None:
        if self._rows:
            self._held = self._rows[min(max(row, 0), len(self._rows) - 1)][1].name
        super().choose(row)

    def subtitle(self) -> str:
        pool, disks = self.pool, self.pool.disks
        held = size(sum(disk.held for disk in disks) / 1024)
        room = f", {size(pool.free / 1024)} of {size(pool.total / 1024)} free" if pool.total else ""
        return f"{counted(len(disks), 'disk')}, {held} held{room}" if disks else ""

    def build(self, width: int, height: int) -> Sequence[Line]:
        bar = min(max(width - 84, 6), 30)
        room = min(max(width - 62 - bar, 14), 40)
        out: list[Line] = [line((f"  {fit('disk', room)} {fit('kind', 8)}{'size':>6} {'holds':>6} {' ' * bar} used by", "dim"))]
        for row, (depth, disk) in enumerate(self._rows):
            out.append(self.marked(row, self._disk(depth, disk, room, bar), width))
        if not self._rows:
            return [*out, EMPTY, line("no disk yet"), line((":disk-create NAME 1G makes one; disk=[…] in a guest's cfg brings its own", "dim"))]
        return [*out, EMPTY, *self._usage(usage_by_domain(self.pool.disks), width)]

    @staticmethod
    def _disk(depth: int, disk: DiskView, room: int, bar: int) -> Line:
        stem = "  " * (depth - 1) + "└ " if depth else ""
        name = disk.name if disk.pooled else os.path.basename(disk.name) or disk.name
        full, empty = gauge(disk.held / disk.size if disk.size else 0.0, bar)
        uses = ", ".join(f"{use.domid} {printable(use.domain)} {use.vdev}{' ro' if use.readonly else ''}" for use in disk.uses)
        if disk.trouble:
            users = Span(printable(disk.trouble), "trouble", "disk:trouble")
        elif uses:
            users = Span(uses, "", "disk:uses")
        elif disk.clones:
            users = Span(f"base of {len(disk.clones)}, never written", "dim", "disk:chain")
        else:
            users = Span("nobody", "dim", "disk:uses")
        return line(
            Span(fit(stem + printable(name), room) + " ", "" if disk.pooled else "italic", "disk:name" if disk.pooled else "disk:foreign"),
            Span(fit(disk.format, 8), "dim", "disk:format"),
            Span(f"{size(disk.size / 1024):>6} ", "", "disk:size"),
            Span(f"{size(disk.held / 1024):>6} ", "", "disk:held"),
            Span(full, "graph", "disk:held"),
            Span(empty + " ", "rule"),
            users,
        )

    @staticmethod
    def _usage(held: Mapping[str, int], width: int) -> list[Line]:
        total = max(sum(held.values()), 1)
        bar = min(max(width - 44, 6), 60)
        out = [line(("  held of the host's disk, by domain", "dim"))]
        for owner, amount in held.items():
            full, _ = gauge(amount / total, bar)
            whose = Span(fit(printable(owner) or "nobody's", 24) + " ", "" if owner else "dim", "disk:uses")
            out.append(cut(line("  ", whose, f"{size(amount / 1024):>6} ", Span(full, "graph")), width))
        return out
