"""A log tells where a message cut in, also between two messages at one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from emulator.abi.xen import VIRQ_TIMER
from emulator.hypervisor.mailbox import Stage, ToBackend
from emulator.hypervisor.replay import replay
from tests.unit.domains import Tiny, tiny


@contextmanager
def two_sleepers() -> Iterator[Tiny]:
    """vCPU 1 wakes after 1 ms, vCPU 0, who has the core, after 2."""
    with tiny(vcpus=2) as guest:
        domain = guest.domain
        for vcpu in domain.vcpus:
            vcpu.up = vcpu.initialised = vcpu.blocked = True
            vcpu.upcall_masked = False
            domain.events.bind_virq(VIRQ_TIMER, vcpu.number)
            vcpu.timers.singleshot = (2 - vcpu.number) * 1_000_000
        domain.receivers["cut"] = lambda data: domain.interrupt()
        yield guest


def test_a_turn_that_had_begun_when_a_message_came_begins_before_it_again() -> None:
    with two_sleepers() as first, two_sleepers() as second:
        domain = first.domain
        log = domain.recording = []
        for milliseconds in (1, 2):
            domain.post(ToBackend("cut", b""))  # no block of the guest's runs
            domain.slice(1000, milliseconds * 1_000_000)
        assert domain.current.number == 1 and all(vcpu.can_run for vcpu in domain.vcpus)
        assert [entry.stage for entry in log] == [Stage.NOT_BEGUN, Stage.NOT_BEGUN, Stage.CHOSEN, Stage.NOT_BEGUN]
        replay(second.domain, log, log[-1].count)
        assert second.domain.current.number == 1
        second.domain.choose()
        assert [second.domain.time.runstate(vcpu) for vcpu in second.domain.vcpus] == [domain.time.runstate(vcpu) for vcpu in domain.vcpus]
