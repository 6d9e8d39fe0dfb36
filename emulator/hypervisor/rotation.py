"""The vCPUs of a domain take turns on its one core, by counts, so that a replay takes the same turns.

    a turn is QUANTUM counts; it ends sooner when its vCPU blocks, yields or goes down; alone, a vCPU goes on
    an IPI marks its target urgent: soon after the sender is interrupted, the target has a short turn, and the sender goes on with
    what was left of its own. So a vCPU that spins for another's answer does not spin a whole turn away.

The next in the ring follows; a run of urgent turns is bounded, so that two vCPUs that ring each other do not starve a third. Whoever
cuts a slice changes nothing here: what depends on the host's clock arrives as a message (`mailbox.Rotate`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from emulator.cpu import native
from emulator.cpu.core import UNLIMITED

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

QUANTUM: Final = 2_000_000
URGENT_TURN: Final = 100_000
URGENT_DELAY: Final = 2_000
"""In counts (bytes of guest code, 8 a virtual ns): about 1 ms, 50 µs and 1 µs of real time."""

_REAL_TURN_NS: Final = 4_000_000


class Rotation:
    """For one domain. `fresh`: something happened for which the next vCPU's events are to be looked at."""

    def __init__(self, domain: Domain, blank: bytes) -> None:
        self._domain = domain
        self._contexts: list[bytes] = [blank] * len(domain.vcpus)
        self._several = len(domain.vcpus) > 1
        self.fresh = True
        self._main, self._left = 0, QUANTUM  # whose turn it is by the ring, and what is left of it while an urgent one runs
        self._ends = QUANTUM
        self._urgent: list[int] = []
        self._urgent_at = 0
        self._streak = 0
        self._since = 0

    # --- choosing ------------------------------------------------------------------------------------------------------------

    def choose(self) -> Vcpu | None:
        """Load the vCPU whose turn it is; None when none can run. Only while the core is stopped."""
        domain = self._domain
        vcpu = domain.current
        if not self._several:
            return vcpu if vcpu.can_run else None
        count = domain.clock.count
        if self._urgent and (not vcpu.can_run or count >= self._urgent_at):
            chosen = self._next_urgent(vcpu, count)
            if chosen is not None:
                return self._load(chosen)
        if vcpu.can_run and (count < self._ends or not self.waiting()):  # a turn is not renewed here: this may be a mere cut
            return vcpu
        return self._load(self._next(vcpu, count))

    def _next_urgent(self, vcpu: Vcpu, count: int) -> Vcpu | None:
        vcpus = self._domain.vcpus
        while self._urgent and self._streak < 2 * len(vcpus):
            number = self._urgent.pop(0)
            target = vcpus[number]
            if not target.can_run or target is vcpu:
                continue
            if vcpu.number == self._main:
                self._left = max(0, self._ends - count)
            self._streak += 1
            self._ends = count + (self._left if number == self._main else URGENT_TURN)
            return target
        self._urgent.clear()
        return None

    def _next(self, vcpu: Vcpu, count: int) -> Vcpu | None:
        """After an urgent turn the interrupted vCPU, else the next of the ring that can run."""
        vcpus = self._domain.vcpus
        self._streak = 0
        main = vcpus[self._main]
        if vcpu is not main and main.can_run and self._left > 0:
            self._ends = count + self._left
            return main
        for step in range(1, len(vcpus) + 1):
            following = vcpus[(self._main + step) % len(vcpus)]
            if following.can_run:
                self._main, self._left = following.number, QUANTUM
                self._ends = count + QUANTUM
                return following
        return None

    def _load(self, vcpu: Vcpu | None) -> Vcpu | None:
        if vcpu is not None and vcpu is not self._domain.current:
            self.switch(vcpu)
        return vcpu

    def bound(self) -> None:
        """Lower the core's limit to the end of the present turn, where another waits for it."""
        if self._several:
            domain = self._domain
            limits = [self._urgent_at] if self._urgent else []
            if self.waiting():
                limits.append(self._ends)
            limit = min(limits, default=UNLIMITED)
            if limit < domain.core.control[native.LIMIT]:
                domain.clock.set_limit(limit)

    def waiting(self) -> bool:
        current = self._domain.current
        return any(vcpu.can_run for vcpu in self._domain.vcpus if vcpu is not current)

    # --- what happens ----------------------------------------------------------------------------------------------------------

    def woke(self) -> None:
        self.fresh = True
        self.bound()

    def hurry(self, vcpu: Vcpu) -> None:
        """An IPI for `vcpu`."""
        if vcpu is self._domain.current or vcpu.number in self._urgent:
            return
        if not self._urgent:
            self._urgent_at = self._domain.clock.count + URGENT_DELAY
        self._urgent.append(vcpu.number)
        self.bound()

    def give_up(self) -> None:
        """The present turn is over (yield, or the host's clock says so)."""
        self._ends = self._left = 0

    def overdue(self) -> bool:
        """Whether the present vCPU has held the core for long by the host's clock while another waits: it spins, most likely."""
        return self._several and time.monotonic_ns() - self._since > _REAL_TURN_NS and self.waiting()

    # --- switching -----------------------------------------------------------------------------------------------------------

    def switch(self, vcpu: Vcpu) -> None:
        """__context_switch: registers and descriptor tables of another vCPU on the core, its run state told."""
        domain, core = self._domain, self._domain.core
        before = domain.current
        domain.time.descheduled(before)
        self._contexts[before.number] = core.save()
        domain.current = vcpu
        vcpu.take_core()
        vcpu.accounting.cpu = before.accounting.cpu
        core.load(self._contexts[vcpu.number])
        domain.tables.stale = False  # the load flushed
        if vcpu.context is not None:
            context, vcpu.context = vcpu.context, None
            context.enter(vcpu)
            domain.arm_breakpoints(vcpu)
        vcpu.refresh_io_rights()
        domain.time.scheduled(vcpu)
        self.fresh = True
        self._since = time.monotonic_ns()

    @contextmanager
    def borrowed(self, vcpu: Vcpu) -> Iterator[None]:
        """The core shows `vcpu` for a look between two slices; the guest cannot tell."""
        current, core = self._domain.current, self._domain.core
        if vcpu is current:
            yield
            return
        kept = core.save()
        core.load(self._contexts[vcpu.number])
        try:
            yield
        finally:
            core.load(kept)

    # --- state ---------------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        return {"contexts": tuple(self._contexts), "current": self._domain.current.number, "main": self._main, "left": self._left,
                "ends": self._ends, "urgent": tuple(self._urgent), "urgent_at": self._urgent_at, "streak": self._streak,
                "fresh": self.fresh}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """After the core and the vCPUs."""
        self._contexts = list(state["contexts"])
        self._domain.current = self._domain.vcpus[state["current"]]
        self._domain.current.take_core()
        self._main, self._left, self._ends = state["main"], state["left"], state["ends"]
        self._urgent, self._urgent_at, self._streak = list(state["urgent"]), state["urgent_at"], state["streak"]
        self.fresh = state["fresh"]
