"""Timers, clocks and run states of a domain's vCPUs (xen/common/sched/core.c, arch/x86/time.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_RUNSTATE: Final = Struct("<iiQ4Q")  # struct vcpu_runstate_info: state, pad, state_entry_time, time[4]
_TIME_INFO: Final = Struct("<IIQQIbBH")  # struct vcpu_time_info
_RUNNING, _RUNNABLE, _BLOCKED, _OFFLINE = range(4)


class Timekeeper:
    """For one domain. Times are system time in ns."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._runstate = [(_RUNNING, 0, [0, 0, 0, 0]) for _ in domain.vcpus]

    def next_deadline(self) -> int:
        """System time of the next timer of any vCPU, 0 when none."""
        times = [t for v in self._domain.vcpus for t in (v.timers.deadline(), v.poll_deadline) if t]
        return min(times, default=0)

    def fire_timers(self) -> None:
        """VIRQ_TIMER for what is due. A periodic timer that missed several periods fires once."""
        now, events = self._domain.clock.now(), self._domain.events
        for vcpu in self._domain.vcpus:
            timers = vcpu.timers
            if timers.singleshot and timers.singleshot <= now:
                timers.singleshot = 0
                events.raise_virq(xen.VIRQ_TIMER, vcpu.number)
            if timers.next_period and timers.next_period <= now:
                behind = (now - timers.next_period) // timers.period + 1
                timers.next_period += behind * timers.period
                events.raise_virq(xen.VIRQ_TIMER, vcpu.number)
            if vcpu.poll_deadline and vcpu.poll_deadline <= now:
                vcpu.poll_deadline = 0
                vcpu.wake()

    def timer_changed(self, vcpu: Vcpu) -> None:
        """The running slice may have to end sooner."""
        deadline = vcpu.timers.deadline()
        if deadline:
            self._domain.clock.shorten(deadline)

    def write_clocks(self) -> None:
        """Wall clock and pvclock parameters: TSC and system time are one number at 1 GHz, so they are written once."""
        domain = self._domain
        memory, base = domain.memory.bytes, domain.layout.shared_info_mfn << 12
        seconds, ns = divmod(domain.spec.wallclock_ns, 1_000_000_000)
        memory[base + xen.SI_WC_VERSION : base + xen.SI_WC_VERSION + 12] = Struct("<III").pack(2, seconds & 0xFFFFFFFF, ns)
        memory[base + xen.SI_WC_SEC_HI : base + xen.SI_WC_SEC_HI + 4] = (seconds >> 32).to_bytes(4, "little")
        for number in range(xen.LEGACY_MAX_VCPUS):
            at = base + number * xen.VCPU_INFO_SIZE + xen.VI_TIME
            memory[at : at + _TIME_INFO.size] = self._time_info()

    @staticmethod
    def _time_info() -> bytes:
        """Version 2 (even: not being written), multiplier 1.0, stable between vCPUs."""
        return _TIME_INFO.pack(2, 0, 0, 0, 0x80000000, 1, xen.TSC_STABLE_BIT, 0)

    def update_time_area(self, vcpu: Vcpu) -> None:
        if vcpu.time_area:
            self._domain.guest.write(vcpu.time_area, self._time_info())

    def runstate(self, vcpu: Vcpu) -> bytes:
        """struct vcpu_runstate_info as of now: state, since when, ns in running, runnable, blocked, offline."""
        state, since, times = self._runstate[vcpu.number]
        now = self._domain.clock.now()
        shown = list(times)
        shown[state] += now - since
        return _RUNSTATE.pack(state, 0, now, *shown)

    def runstate_changed(self, vcpu: Vcpu) -> None:
        """The vCPU blocked or woke: account, and tell the area it registered."""
        state, since, times = self._runstate[vcpu.number]
        now = self._domain.clock.now()
        times[state] += now - since
        state = _BLOCKED if vcpu.blocked else _RUNNING
        self._runstate[vcpu.number] = (state, now, times)
        if vcpu.runstate_area:
            try:
                self._domain.guest.write(vcpu.runstate_area, _RUNSTATE.pack(state, 0, now, *times))
            except Refusal as refusal:  # the guest unmapped it: Xen's update_runstate_area lets it be too
                self._domain.refused("runstate area", refusal)

    def save(self) -> list[tuple[int, int, list[int]]]:
        return [(state, since, list(times)) for state, since, times in self._runstate]

    def load(self, saved: list[tuple[int, int, list[int]]]) -> None:
        self._runstate = [(state, since, list(times)) for state, since, times in saved]
