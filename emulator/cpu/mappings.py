"""What is mapped where in this process, by the host's own account (proc(5): maps)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Mapping(NamedTuple):
    """`rights` as there, r-xp say; `path` is empty when no file is mapped."""

    low: int
    high: int
    rights: str
    path: str


def mappings() -> Iterator[Mapping]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, rights, _offset, _device, _inode, *path = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        yield Mapping(low, high, rights, path[0] if path else "")


def rights_at(address: int) -> str:
    """Empty when nothing is mapped there."""
    return next((found.rights for found in mappings() if found.low <= address < found.high), "")
