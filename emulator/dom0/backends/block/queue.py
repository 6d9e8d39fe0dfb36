"""One queue of a disk: its ring with the grants and the event channel that belong to it, and the grants that stay mapped.

A frontend of one queue has its nodes in its own directory, one of several in queue-0, queue-1, … (blkif.h, multi-queue-num-queues).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from emulator.dom0.backends.block.ring import BlockRing, RingState
from emulator.dom0.grants import GrantError, GrantLook

MAX_RING_ORDER: Final = 2
MAX_QUEUES: Final = 4
MAX_PERSISTENT: Final = 1056
"""Grants of a queue that stay mapped at most, xen-blkback's max_persistent_grants."""


class PersistentGrants:
    """A GrantLook that maps each grant for writing at its first use and keeps it (blkif.h, feature-persistent): the frontend sees it in
    use until `release`, and what it makes of the entry meanwhile means nothing. Beyond `most`, and for grants that are read-only, it is
    used as without the feature."""

    def __init__(self, grants: GrantLook, most: int = MAX_PERSISTENT, kept: Sequence[tuple[int, int]] = ()) -> None:
        self._grants, self._most = grants, most
        self.kept: dict[int, int] = dict(kept)  # reference -> machine frame

    def look(self, grefs: Sequence[int], write: bool) -> list[int]:
        kept = self.kept
        try:
            return [kept[gref] for gref in grefs]
        except KeyError:
            return [self._first(gref, write) for gref in grefs]

    def _first(self, gref: int, write: bool) -> int:
        found = self.kept.get(gref)
        if found is not None:
            return found
        if len(self.kept) < self._most:
            try:
                self.kept[gref] = self._grants.begin(gref, True)
            except GrantError:
                if write:
                    raise
            else:
                return self.kept[gref]
        (mfn,) = self._grants.look((gref,), write)
        return mfn

    def begin(self, gref: int, write: bool) -> int:
        return self._grants.begin(gref, write)

    def end(self, gref: int, write: bool) -> None:
        self._grants.end(gref, write)

    def release(self) -> None:
        """Unmap them all."""
        for gref in self.kept:
            self._grants.end(gref, True)
        self.kept.clear()


@dataclass(frozen=True)
class QueueState:
    """A saved queue. `kept`: references and frames that were mapped."""

    ring: RingState
    grefs: tuple[int, ...]
    frames: tuple[int, ...]
    port: int
    persistent: bool
    kept: tuple[tuple[int, int], ...]


@dataclass
class Queue:
    """`grefs` and `frames`: the ring's pages, in use until the disk is disconnected."""

    ring: BlockRing
    grefs: tuple[int, ...]
    frames: tuple[int, ...]
    port: int
    persistent: PersistentGrants | None

    def save(self) -> QueueState:
        kept = tuple(self.persistent.kept.items()) if self.persistent is not None else ()
        return QueueState(self.ring.save(), self.grefs, self.frames, self.port, self.persistent is not None, kept)


@dataclass(frozen=True, slots=True)
class QueueNodes:
    """What a frontend wrote of one queue."""

    grefs: tuple[int, ...]
    port: int


def read_queues(number: Callable[[str, int, int | None], int]) -> tuple[list[QueueNodes], bool]:
    """The queues that a frontend asks for, and whether its grants are persistent. `number(key, limit, default)` reads a node and
    raises GrantError for one that will not do."""
    count = number("multi-queue-num-queues", MAX_QUEUES, 1)
    if not count:
        raise GrantError("it asks for no queue")
    order = number("ring-page-order", MAX_RING_ORDER, -1)
    keys = ["ring-ref"] if order < 0 else [f"ring-ref{page}" for page in range(1 << order)]
    queues = []
    for index in range(count):
        folder = f"queue-{index}/" if count > 1 else ""
        grefs = tuple(number(folder + key, (1 << 32) - 1, None) for key in keys)
        queues.append(QueueNodes(grefs, number(f"{folder}event-channel", (1 << 32) - 1, None)))
    return queues, bool(number("feature-persistent", 1, 0))
