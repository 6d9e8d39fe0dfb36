"""Bounded lists of lines that logs are drawn from: the engine's events, and the commands given here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line: `mark` is a letter that tells the level without colour."""

    time_unix: float
    source: str  # the domain's name, the host's, or empty
    text: str
    level: str = "info"  # debug info ok warning error
    domid: int = -1


class Journal:
    """The newest `limit` entries. `added` counts all there ever were, so that a view knows what it has not drawn yet."""

    def __init__(self, limit: int = 5000) -> None:
        self.entries: deque[Entry] = deque(maxlen=limit)
        self.added = 0

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.added += 1

    def extend(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.add(entry)
