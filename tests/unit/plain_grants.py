"""Grants of a made-up guest of 64 frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from emulator.dom0.grants import GrantError

FRAMES = 64


@dataclass
class PlainGrants:
    """Grant n + 100 gives machine frame n; uses are counted."""

    readonly: set[int] = field(default_factory=set)
    revoked: set[int] = field(default_factory=set)
    uses: dict[int, int] = field(default_factory=dict)

    def look(self, grefs: Sequence[int], write: bool) -> list[int]:
        return [self._frame(gref, write) for gref in grefs]

    def _frame(self, gref: int, write: bool) -> int:
        if not 100 <= gref < 100 + FRAMES or gref in self.revoked:
            raise GrantError(f"grant {gref} gives no access")
        if write and gref in self.readonly:
            raise GrantError(f"grant {gref} is read-only")
        return gref - 100

    def begin(self, gref: int, write: bool) -> int:
        mfn = self._frame(gref, write)
        self.uses[gref] = self.uses.get(gref, 0) + 1
        return mfn

    def end(self, gref: int, write: bool) -> None:
        self.uses[gref] -= 1
        assert self.uses[gref] >= 0

    @property
    def held(self) -> int:
        return sum(self.uses.values())
