"""The host's memory pool: exact accounting of frames handed to domains. free + owned = total, always."""

from __future__ import annotations

import threading

from emulator.errors import UserError


class MemoryPool:
    """`total` frames of 4 KiB; each owner holds a number of them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._owned: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        with self._lock:
            return self.total - sum(self._owned.values())

    def take(self, owner: int, frames: int) -> None:
        """Raises UserError when the pool has not that many."""
        with self._lock:
            free = self.total - sum(self._owned.values())
            if frames > free:
                raise UserError(f"not enough memory: {frames // 256} MiB wanted", why=f"{free // 256} MiB of {self.total // 256} are free",
                                fix="destroy a domain or lower memory=")  # fmt: skip
            self._owned[owner] = self._owned.get(owner, 0) + frames

    def give(self, owner: int) -> None:
        """All that the owner held comes back."""
        with self._lock:
            self._owned.pop(owner, None)
