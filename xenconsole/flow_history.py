"""History of what flows: a few named series a thing, a point a pull, bounded. The app keeps it, so that it outlives the screen."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from emulator.control.views import FlowView

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


class Flows:
    """Makes histories of counters: a point a look, a rate a second; the latency is the mean of what ended since the last look."""

    def __init__(self) -> None:
        self.history = FlowHistory()
        self.at = 0.0  # when it was fed, by its feeder's clock; 0: never
        self._last: dict[str, FlowView] = {}

    def feed(self, flows: Sequence[FlowView], seconds: float) -> None:
        """Take the counters `seconds` after the last ones; a counter that fell (a restored snapshot) gives zero."""
        for flow in flows:
            last = self._last.get(flow.device)
            if last is not None and seconds > 0:
                waited = flow.waited - last.waited
                self.history.feed(flow.device, {
                    "inward": max(flow.inward - last.inward, 0) / seconds,
                    "outward": max(flow.outward - last.outward, 0) / seconds,
                    "done": max(flow.done - last.done, 0) / seconds,
                    "latency": max(flow.wait_ns - last.wait_ns, 0) / waited / 1000 if waited > 0 else 0.0,
                })  # fmt: skip
        if seconds > 0 or not self._last:
            self._last = {flow.device: flow for flow in flows}
        self.history.keep(self._last)


class FlowBook:
    """The histories of all domains that were looked at and live, and that of the networks."""

    def __init__(self) -> None:
        self.networks = FlowHistory()
        self._domains: dict[int, Flows] = {}

    def of(self, domid: int) -> Flows:
        """Those of a domain's devices."""
        return self._domains.setdefault(domid, Flows())

    def keep(self, domids: Iterable[int]) -> None:
        """Forget all other domains."""
        alive = set(domids)
        self._domains = {domid: flows for domid, flows in self._domains.items() if domid in alive}
