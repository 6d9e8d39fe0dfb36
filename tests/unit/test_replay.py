"""A log tells where a message cut in, also between two messages at one place."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from emulator.abi.xen import VI_UPCALL_MASK, VIRQ_TIMER
from emulator.hypervisor.mailbox import Stage, ToBackend
from emulator.hypervisor.replay import replay
from tests.unit.domains import CODE, DATA, SHARED, STACK, Tiny, tiny, va


def at(address: int) -> str:
    return struct.pack("<I", address).hex()


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


def test_a_stop_in_the_midst_of_a_block_that_changes_itself_replays() -> None:
    """Unicorn begins the changing instruction again in a block of its own; where it was stopped before that, the whole block again."""
    # again: inc eax; mov dword [idle], its own bytes; inc ecx; idle: nop; jmp again
    code = f"ffc0 c70425{at(va(CODE, 15))}0f1f4000 ffc1 0f1f4000 ebeb"

    with tiny() as first, tiny() as second:
        domain = first.domain
        log = domain.recording = []
        domain.core.rip = first.put(CODE, code)
        for number in range(200):
            domain.advance(domain.clock.count + number % 61)
        second.domain.core.rip = second.put(CODE, code)
        replay(second.domain, log, domain.clock.count)
        ends = [(domain.clock.count, domain.core.rip, *domain.core.regs) for domain in (first.domain, second.domain)]
        assert ends[0] == ends[1]
        assert domain.core.regs[1] > 5


def test_no_event_is_delivered_for_a_cut_alone() -> None:
    """Linux unmasks by a store, looks for what is pending and asks for it by a hypercall. A cut between the two is the host's: what was
    looked at when the event came is not looked at again there."""
    with tiny() as guest:
        domain = guest.domain
        vcpu, info = domain.vcpus[0], va(SHARED)
        spin, handler = "ebfe", guest.put(CODE, "ebfe", 0x400)
        assert guest.call_with("callback_op", 0, "HHxxxxQ", 0, 0, handler) == 0
        assert guest.call_with("event_channel_op", 7, "II", 0, 0) == 0  # EVTCHNOP_bind_ipi
        (port,) = struct.unpack("<I", guest.get(DATA, 4, 4))
        vcpu.upcall_masked = True
        guest.put(DATA, struct.pack("<I", port))
        domain.core.regs[4] = va(STACK, 4096)
        # mov edi, EVTCHNOP_send; mov esi, its argument; mov eax, event_channel_op; syscall; mov byte [evtchn_upcall_mask], 0; jmp to itself
        send = f"bf04000000 be{at(va(DATA))} b820000000 0f05 c60425{at(info + VI_UPCALL_MASK)}00"
        guest.run(send + spin)
        spinning = va(CODE, len(bytes.fromhex(send)))
        assert (domain.core.rip, vcpu.upcall_masked, domain.memory.bytes[vcpu.info]) == (spinning, False, 1)
        domain.slice(1000)
        assert domain.core.rip == spinning
        domain.post(ToBackend("nothing", b""))
        domain.receivers["nothing"] = lambda data: None
        domain.slice(1000)
        assert domain.core.rip == handler, "a message has its place in the log"
