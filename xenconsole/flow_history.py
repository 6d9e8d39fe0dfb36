"""History of what flows: a few named series a thing, a point a pull, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

POINTS = 480
"""Points kept of a series."""


class FlowHistory:
    """Series by key and name, oldest point first."""

    def __init__(self, points: int = POINTS) -> None:
        self._points = points
        self._series: dict[str, dict[str, deque[float]]] = {}

    def feed(self, key: str, values: Mapping[str, float]) -> None:
        """One point more for each named series of `key`."""
        kept = self._series.setdefault(key, {})
        for name, value in values.items():
            kept.setdefault(name, deque(maxlen=self._points)).append(value)

    def of(self, key: str, name: str) -> tuple[float, ...]:
        return tuple(self._series.get(key, {}).get(name, ()))

    def keep(self, keys: Iterable[str]) -> None:
        """Forget all others."""
        wanted = set(keys)
        self._series = {key: series for key, series in self._series.items() if key in wanted}
