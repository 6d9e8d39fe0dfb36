"""Rates and history: what changes between successive overviews, per second.

Pure: fed with one Overview a tick, it keeps for every domain and physical CPU a smoothed rate and a bounded history. Time is the
engine's own clock (`HostView.uptime_ns`), so that a late tick or a frozen display does not spoil a rate. A counter that
went backwards (a restored snapshot, a new engine) gives zero for that tick, never a negative rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from emulator.control.views import DomainView, HostView, Overview

HISTORY = 120
"""Points of history kept a domain: one a history interval."""


@dataclass(frozen=True, slots=True)
class DomainRates:
    """Per-second rates of one domain over the last ticks. `cpu` is in percent of one physical CPU (xentop's CPU(%))."""

    cpu: float = 0.0
    hypercalls: float = 0.0
    events: float = 0.0
    faults: float = 0.0
    console_in: float = 0.0  # bytes per second, as all below
    console_out: float = 0.0
    net_rx: float = 0.0
    net_tx: float = 0.0
    block_read: float = 0.0
    block_write: float = 0.0
    vcpus: tuple[float, ...] = ()  # percent of one physical CPU, by vCPU

    @property
    def traffic(self) -> float:
        """Bytes per second through all rings."""
        return self.console_in + self.console_out + self.net_rx + self.net_tx + self.block_read + self.block_write


NO_RATES = DomainRates()


def _counters(view: DomainView) -> tuple[int, ...]:
    """CPU time, then the counters in the order of DomainRates' fields."""
    ring = view.traffic
    return (
        view.cpu_ns,
        view.hypercalls,
        view.events,
        view.faults,
        ring.console_in,
        ring.console_out,
        ring.net_rx,
        ring.net_tx,
        ring.block_read,
        ring.block_write,
    )


class _Track:
    """What is remembered of one domain between ticks."""

    __slots__ = ("counters", "history", "pending", "pending_s", "rates", "smooth", "vcpu_ns")

    def __init__(self, view: DomainView) -> None:
        self.counters = _counters(view)
        self.vcpu_ns = tuple(v.cpu_ns for v in view.vcpus)
        self.smooth: list[float] = [0.0] * len(self.counters)
        self.rates = NO_RATES
        self.history: deque[float] = deque(maxlen=HISTORY)
        self.pending = 0.0
        self.pending_s = 0.0

    def step(self, view: DomainView, seconds: float, keep: float, interval_s: float) -> None:
        """Take the counters `seconds` after the last ones; `keep` is the old rate's share in the new one."""
        counters = _counters(view)
        if counters != self.counters or self.rates is not NO_RATES:
            self._blend(view, counters, (1.0 - keep) / seconds, keep)
        self.pending += max(counters[0] - self.counters[0], 0) / 1e7
        self.counters = counters
        self.pending_s += seconds
        if self.pending_s >= interval_s:
            self.history.append(self.pending / self.pending_s)
            self.pending = self.pending_s = 0.0

    def _blend(self, view: DomainView, counters: tuple[int, ...], share: float, keep: float) -> None:
        vcpu_ns = tuple(v.cpu_ns for v in view.vcpus)
        before = self.rates.vcpus if len(self.rates.vcpus) == len(vcpu_ns) else (0.0,) * len(vcpu_ns)
        last = self.vcpu_ns if len(self.vcpu_ns) == len(vcpu_ns) else vcpu_ns
        smooth = [
            old * keep + (new - was) * share if new > was else old * keep if old > 0.02 else 0.0
            for old, new, was in zip(self.smooth, counters, self.counters, strict=True)
        ]
        smooth[0] = self.smooth[0] * keep + max(counters[0] - self.counters[0], 0) * share / 1e7
        if smooth[0] < 0.02:
            smooth[0] = 0.0
        self.smooth, self.vcpu_ns = smooth, vcpu_ns
        if not any(smooth):
            self.rates = NO_RATES
            return
        vcpus = tuple(old * keep + max(new - was, 0) * share / 1e7 for old, new, was in zip(before, vcpu_ns, last, strict=True))
        cpu, hypercalls, events, faults, con_in, con_out, net_rx, net_tx, read, write = smooth
        self.rates = DomainRates(cpu, hypercalls, events, faults, con_in, con_out, net_rx, net_tx, read, write, vcpus)


class Rates:
    """Rates by domain ID. `interval_s` is the time one point of history stands for, `smooth_s` the smoothing's time constant."""

    def __init__(self, *, interval_s: float = 1.0, smooth_s: float = 0.5) -> None:
        self._interval_s = interval_s
        self._smooth_s = smooth_s
        self._tracks: dict[int, _Track] = {}
        self._cpu_busy: tuple[float, ...] = ()
        self._engine_cpu = 0.0
        self._host: HostView | None = None

    def feed(self, overview: Overview) -> None:
        """Take the next overview. One that is not newer than the last changes nothing but adds and drops domains."""
        host, last = overview.host, self._host
        if last is not None and (host.started_unix != last.started_unix or host.uptime_ns < last.uptime_ns):
            self._tracks.clear()
            last = None
        seconds = (host.uptime_ns - last.uptime_ns) / 1e9 if last is not None else 0.0
        keep = self._smooth_s / (self._smooth_s + seconds) if self._smooth_s > 0 else 0.0
        if last is not None and seconds > 0:
            busy = {cpu.cpu: cpu.busy_ns for cpu in last.cpus}
            self._cpu_busy = tuple(min(max(cpu.busy_ns - busy.get(cpu.cpu, cpu.busy_ns), 0) / seconds / 1e7, 100.0) for cpu in host.cpus)
            self._engine_cpu = max(host.engine_cpu_ns - last.engine_cpu_ns, 0) / seconds / 1e7
        elif last is None:
            self._cpu_busy = (0.0,) * len(host.cpus)
            self._engine_cpu = 0.0
        tracks: dict[int, _Track] = {}
        for view in overview.domains:
            track = self._tracks.get(view.domid)
            if track is None:
                track = _Track(view)
            elif seconds > 0:
                track.step(view, seconds, keep, self._interval_s)
            tracks[view.domid] = track
        self._tracks = tracks
        self._host = host

    def of(self, domid: int) -> DomainRates:
        """The rates of a domain; all zero for one that is not known yet."""
        track = self._tracks.get(domid)
        return track.rates if track is not None else NO_RATES

    def history(self, domid: int) -> tuple[float, ...]:
        """CPU % of a domain, oldest first, one point an interval, at most HISTORY points."""
        track = self._tracks.get(domid)
        return tuple(track.history) if track is not None else ()

    @property
    def cpus(self) -> tuple[float, ...]:
        """Percent busy of each physical CPU."""
        return self._cpu_busy

    @property
    def engine_cpu(self) -> float:
        """CPU use of the engine's process in percent of one core."""
        return self._engine_cpu

    def all(self) -> Mapping[int, DomainRates]:
        """Rates of every known domain."""
        return {domid: track.rates for domid, track in self._tracks.items()}
