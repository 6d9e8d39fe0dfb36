"""The host's memory pool: exact accounting of the frames that domains own or may still take. free + claimed = total, always."""

from __future__ import annotations

import threading

from emulator.errors import UserError


class MemoryPool:
    """`total` frames of 4 KiB; each owner claims a number of them: those it owns, and those set aside for it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._claims: dict[int, int] = {}
        self._claimed = 0  # their sum
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        with self._lock:
            return self.total - self._claimed

    def claimed(self, owner: int) -> int:
        with self._lock:
            return self._claims.get(owner, 0)

    def take(self, owner: int, frames: int) -> None:
        """Claim more. Raises UserError when the pool has not that many."""
        with self._lock:
            self._resize(owner, self._claims.get(owner, 0) + frames)

    def resize(self, owner: int, frames: int) -> None:
        """Claim that many, no more and no less. Raises UserError when the pool has not that many; fewer is always possible."""
        with self._lock:
            self._resize(owner, frames)

    def _resize(self, owner: int, frames: int) -> None:
        more, free = frames - self._claims.get(owner, 0), self.total - self._claimed
        if more > 0 and more > free:
            raise UserError(f"not enough memory: {more // 256} MiB wanted", why=f"{free // 256} MiB of {self.total // 256} are free",
                            fix="destroy a domain, lower memory=, or take some from another with mem-set")  # fmt: skip
        self._claimed += more
        if frames:
            self._claims[owner] = frames
        else:
            self._claims.pop(owner, None)

    def give(self, owner: int) -> None:
        """All that the owner held comes back."""
        with self._lock:
            self._claimed -= self._claims.pop(owner, 0)
