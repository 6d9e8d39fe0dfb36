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
RUNNING, RUNNABLE, BLOCKED, OFFLINE = range(4)
WATCHDOGS: Final = 2


class Timekeeper:
    """For one domain. Times are system time in ns."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._runstate = [(RUNNING if vcpu.number == 0 else OFFLINE, 0, [0, 0, 0, 0]) for vcpu in domain.vcpus]
        self.watchdogs = [0] * WATCHDOGS  # deadlines, 0: not in use

    def next_deadline(self) -> int:
        """System time of the next timer of any vCPU or watchdog, 0 when none."""
        earliest = self._domain.events.lazy_until
        for vcpu in self._domain.vcpus:
            timers = vcpu.timers
            tick = timers.ticked + timers.period if timers.period and vcpu.can_run else 0
            for at in (timers.singleshot, tick, vcpu.poll_deadline):
                if at and (not earliest or at < earliest):
                    earliest = at
        for at in self.watchdogs:
            if at and (not earliest or at < earliest):
                earliest = at
        return earliest

    def fire_timers(self) -> None:
        """VIRQ_TIMER for what is due. A periodic timer that missed several periods fires once (vcpu_periodic_timer_work_locked)."""
        now, events = self._domain.clock.now(), self._domain.events
        if events.lazy_until and events.lazy_until <= now:
            events.flush_lazy()
        for vcpu in self._domain.vcpus:
            timers = vcpu.timers
            if timers.singleshot and timers.singleshot <= now:
                timers.singleshot = 0
                events.raise_virq(xen.VIRQ_TIMER, vcpu.number)
            if timers.period and timers.ticked + timers.period <= now and vcpu.can_run:
                timers.ticked = now
                events.raise_virq(xen.VIRQ_TIMER, vcpu.number)
            if vcpu.poll_deadline and vcpu.poll_deadline <= now:
                vcpu.poll_deadline = 0
                vcpu.wake()
        for at in self.watchdogs:
            if at and at <= now and not self._domain.ended:
                self._domain.shutdown("watchdog")

    def timer_changed(self) -> None:
        """The running slice may have to end sooner."""
        deadline = self.next_deadline()
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

    def guest_stopped(self) -> None:
        """XEN_PVCLOCK_GUEST_STOPPED: the kernel takes the coming step of the clock for what it is, and clears the flag; its watchdogs
        would take it for a processor that was stuck."""
        memory = self._domain.memory.bytes
        for vcpu in self._domain.vcpus:
            if vcpu.info:
                memory[vcpu.info + xen.VI_TIME + xen.TIME_FLAGS] |= xen.GUEST_STOPPED

    def blank_info(self) -> bytes:
        """A vcpu_info with upcalls masked."""
        info = bytearray(xen.VCPU_INFO_SIZE)
        info[xen.VI_UPCALL_MASK] = 1
        info[xen.VI_TIME : xen.VI_TIME + _TIME_INFO.size] = self._time_info()
        return bytes(info)

    @staticmethod
    def _time_info() -> bytes:
        """Version 2 (even: not being written), multiplier 1.0, stable between vCPUs."""
        return _TIME_INFO.pack(2, 0, 0, 0, 0x80000000, 1, xen.TSC_STABLE_BIT, 0)

    def update_time_area(self, vcpu: Vcpu) -> None:
        """update_secondary_system_time."""
        if vcpu.time_area:
            self._tell("time area", vcpu, vcpu.time_area, self._time_info())

    def update_runstate_area(self, vcpu: Vcpu) -> None:
        """What a newly registered area is told: the running vCPU's as its last change left it, another's as of now."""
        state, since, times = self._runstate[vcpu.number]
        if vcpu.runstate_area:
            image = _RUNSTATE.pack(state, 0, since, *times) if vcpu is self._domain.current else self.runstate(vcpu)
            self._tell("runstate area", self._domain.current, vcpu.runstate_area, image)

    def runstate(self, vcpu: Vcpu) -> bytes:
        """vcpu_runstate_get: struct vcpu_runstate_info as of now: state, since when, ns in running, runnable, blocked, offline."""
        state, since, times = self._runstate[vcpu.number]
        now = self._domain.clock.now()
        shown = list(times)
        shown[state] += max(0, now - since)
        return _RUNSTATE.pack(state, 0, since, *shown)

    def runstate_changed(self, vcpu: Vcpu) -> None:
        """The vCPU blocked, woke, came up or went down."""
        if vcpu is self._domain.current:
            self._enter(vcpu, RUNNING if vcpu.can_run else BLOCKED if vcpu.up else OFFLINE, tell=True)
        else:
            self._enter(vcpu, RUNNABLE if vcpu.can_run else BLOCKED if vcpu.up else OFFLINE, tell=False)

    def scheduled(self, vcpu: Vcpu) -> None:
        """The vCPU has the core now, its page tables are live."""
        self._enter(vcpu, RUNNING, tell=True)

    def descheduled(self, vcpu: Vcpu) -> None:
        """The vCPU is about to leave the core."""
        self._enter(vcpu, RUNNABLE if vcpu.can_run else BLOCKED if vcpu.up else OFFLINE, tell=True)

    def stolen(self, ns: int) -> None:
        """The last `ns` before now passed on another domain: who ran was runnable only."""
        if ns <= 0:
            return
        vcpu = self._domain.current
        state, since, times = self._runstate[vcpu.number]
        if state == RUNNING:
            times[RUNNABLE] += ns
            self._runstate[vcpu.number] = (state, since + ns, times)

    def _enter(self, vcpu: Vcpu, state: int, tell: bool) -> None:
        was, since, times = self._runstate[vcpu.number]
        now = self._domain.clock.now()
        times[was] += max(0, now - since)
        self._runstate[vcpu.number] = (state, max(now, since), times)
        if tell and vcpu.runstate_area:
            self._tell("runstate area", vcpu, vcpu.runstate_area, _RUNSTATE.pack(state, 0, now, *times))

    def _tell(self, what: str, vcpu: Vcpu, area: int, image: bytes) -> None:
        """By the guest kernel's tables, whichever mode it was interrupted in."""
        domain, kernel = self._domain, vcpu.cr3_kernel << 12
        try:
            if domain.core.cr3 == kernel:
                domain.guest.write(area, image)
            else:
                with domain.core.walking(kernel):
                    domain.guest.write(area, image)
        except Refusal as refusal:  # it is not mapped, or not any more: Xen lets it be, too
            domain.refused(what, refusal)

    def save(self) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
        return [(state, since, list(times)) for state, since, times in self._runstate], list(self.watchdogs)

    def load(self, saved: tuple[list[tuple[int, int, list[int]]], list[int]]) -> None:
        runstate, watchdogs = saved
        self._runstate = [(state, since, list(times)) for state, since, times in runstate]
        self.watchdogs = list(watchdogs)

    def spent(self, vcpu: Vcpu) -> tuple[int, int, int, int]:
        """ns in running, runnable, blocked and offline as of now, for consoles."""
        state, since, times = self._runstate[vcpu.number]
        shown = list(times)
        shown[state] += max(0, self._domain.clock.now() - since)
        return shown[0], shown[1], shown[2], shown[3]
