"""A domain with a tree of page tables as wide as it can hold, and a count of what each piece of a hypercall does to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.hypervisor.memory.promotion import ALLOWANCE, TABLE_WORK
from tests.unit.domains import PRESENT, RW, USER, Tiny

LINK = PRESENT | RW | USER
LEAVES, LOWER, UPPER = 1200, 8, 3  # L1, L2 and L3 tables
MOST = ALLOWANCE // TABLE_WORK + 4  # L1 tables in one piece, and those that the last step of each level may add


class Wide(Tiny):
    """A domain with a tree of tables, none of them validated: `l4`, `l3`, `l2` and `l1` are their frames. What is done is counted
    apart from the hypervisor's own count: `most` is the largest number of L1 tables, and of entries, in one piece of a hypercall."""

    def __init__(self, vcpus: int = 1) -> None:
        super().__init__(vcpus=vcpus, max_frames=256 + LEAVES + LOWER + UPPER + 1)
        self.domain.reservation.set_maximum(256 + LEAVES + LOWER + UPPER + 1)
        taken = [self.domain.reservation.take() for _ in range(LEAVES + LOWER + UPPER + 1)]
        frames = [mfn for mfn in taken if mfn is not None]
        self.l4, self.l3, self.l2, self.l1 = frames[0], frames[1 : 1 + UPPER], frames[1 + UPPER : 1 + UPPER + LOWER], frames[1 + UPPER + LOWER :]
        self.target = self.mfn(100)
        for mfn in self.l1:
            self.table(mfn)[:] = self.target << 12 | LINK
        for at, mfn in enumerate(self.l1):
            self.table(self.l2[at % LOWER])[at // LOWER * 3] = mfn << 12 | LINK
        for at, mfn in enumerate(self.l2):
            self.table(self.l3[at % UPPER])[at // UPPER * 7 + 1] = mfn << 12 | LINK
        for slot, mfn in zip((1, 255, 300), self.l3, strict=True):
            self.table(self.l4)[slot] = mfn << 12 | LINK
        self.leaves = self.entries = 0
        self.most = (0, 0)
        self._count()

    def table(self, mfn: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return self.domain.memory.quads[mfn << 9 : (mfn + 1) << 9]

    def _count(self) -> None:
        tables, core, handle = self.domain.tables, self.domain.core, self.domain.core.on_trap

        def counted(method: Callable[..., None], leaf: bool) -> Callable[..., None]:
            def call(*arguments: int) -> None:
                self.leaves, self.entries = self.leaves + leaf, self.entries + (not leaf)
                method(*arguments)

            return call

        for name, leaf in (("_promote_l1", True), ("_demote_l1", True), ("get_upper", False), ("put_upper", False)):
            setattr(tables, name, counted(getattr(tables, name), leaf))

        def piece(vector: int) -> None:
            self.leaves = self.entries = 0
            handle(vector)
            self.most = max(self.most[0], self.leaves), max(self.most[1], self.entries)

        core.on_trap = piece

    @property
    def tree(self) -> list[int]:
        return [self.l4, *self.l3, *self.l2, *self.l1]

    def types(self) -> set[int]:
        return {self.domain.frames.type[mfn] for mfn in self.tree}
