"""A token bucket after Linux's netback (xenvif_tx_add_credit): so many bytes an interval, saved up to a burst.

Time is the caller's: a guest's virtual time, so that what is let through is a function of what the guest did and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIN_BURST: Final = 131072
"""Bytes: two of the largest frames, or a slow interface would never send one."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`bytes_per_interval` bytes every `interval_us` microseconds."""

    bytes_per_interval: int
    interval_us: int

    @property
    def bytes_per_second(self) -> int:
        return self.bytes_per_interval * 1_000_000 // self.interval_us

    def text(self) -> str:
        """As the backend's xenstore node `rate` has it."""
        return f"{self.bytes_per_interval},{self.interval_us}"


class TokenBucket:
    def __init__(self, rate: Rate, now_ns: int = 0) -> None:
        self.rate = rate
        self._credit = rate.bytes_per_interval
        self._filled_ns = now_ns  # the end of the last whole interval that was paid out
        self.waits = 0

    def take(self, size: int, now_ns: int) -> int:
        """0: `size` bytes may pass, and are paid for. Else the time (ns) at which to ask again."""
        self._fill(now_ns)
        if size <= self._credit:
            self._credit -= size
            return 0
        self.waits += 1
        interval = self.rate.interval_us * 1000
        missing = -(-(min(size, self._burst) - self._credit) // self.rate.bytes_per_interval)
        return self._filled_ns + max(1, missing) * interval

    @property
    def _burst(self) -> int:
        return max(MIN_BURST, self.rate.bytes_per_interval)

    def _fill(self, now_ns: int) -> None:
        interval = self.rate.interval_us * 1000
        passed = (now_ns - self._filled_ns) // interval
        if passed > 0:
            self._filled_ns += passed * interval
            self._credit = min(self._burst, self._credit + passed * self.rate.bytes_per_interval)

    def save(self) -> tuple[int, int]:
        return self._credit, self._filled_ns

    def load(self, state: tuple[int, int]) -> None:
        self._credit, self._filled_ns = state
