"""Event channels of two levels, blocking, polling: who is woken, when, and what the shared bits say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi.errno import EEXIST, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import EVENT_PORTS, HYPERCALL_NUMBER
from emulator.cpu.native import VECTOR_SYSCALL
from emulator.hypervisor.channels import Signal
from emulator.hypervisor.events import INTERDOMAIN, UNBOUND, Port
from emulator.hypervisor.mailbox import Level
from tests.unit.domains import CODE, DATA, Tiny, tiny, va
from tests.unit.event_bits import OP, Bits, blocked, bound

BIND_INTERDOMAIN, BIND_VIRQ, BIND_PIRQ, CLOSE, SEND, STATUS, ALLOC_UNBOUND, BIND_IPI, BIND_VCPU, UNMASK, RESET = range(11)
SELF = 0x7FF0
EVENT = va(CODE, 0x500)


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        made.put(CODE, "ebfe", 0x500)
        assert made.call("set_callbacks", EVENT, EVENT, EVENT) == 0
        yield made


def test_an_event_sets_all_its_bits_once(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_IPI, "II", 0, 0)
    assert guest.call_with(OP, SEND, "I", port) == 0
    assert (bits.pending(port), bits.selector, bits.upcall) == (True, 1 << (port >> 6), 1)
    bits.take()
    assert guest.call_with(OP, SEND, "I", port) == 0
    assert (bits.selector, bits.upcall) == (0, 0), "it was pending already: no second edge"
    bits.clear(port)
    assert guest.call_with(OP, SEND, "I", port) == 0
    assert bits.upcall == 1


def test_a_masked_event_waits_and_unmask_delivers_it(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_IPI, "II", 0, 0)
    bits.mask(port)
    assert guest.call_with(OP, SEND, "I", port) == 0
    assert (bits.pending(port), bits.selector, bits.upcall) == (True, 0, 0)
    assert guest.call_with(OP, UNMASK, "I", port) == 0
    assert (bits.selector, bits.upcall) == (1 << (port >> 6), 1)
    bits.take()
    assert guest.call_with(OP, UNMASK, "I", port) == 0
    assert bits.upcall == 0, "it was not masked: nothing to do"


def test_an_event_that_is_no_news_comes_with_the_next_look_at_the_clock_or_in_its_time(guest: Tiny) -> None:
    bits, port, domain = Bits(guest), bound(guest, BIND_IPI, "II", 0, 0), guest.domain
    for again in range(2):
        until = domain.clock.now() + 1_000_000
        domain.events.set_pending_lazily(port, until)
        domain.events.set_pending_lazily(port, until + 1)
        domain.events.flush_late()  # what is done before a vCPU sleeps
        domain.time.fire_timers()
        assert not bits.pending(port) and domain.time.next_deadline() == until
        state = domain.events.save()
        domain.events.flush_lazy()
        bits.clear(port)
        domain.events.load(state)
        if again:
            domain.clock.level(until)
            domain.time.fire_timers()
        else:
            Level(domain.clock.now() + 1).apply(domain)
        assert bits.pending(port) and not domain.events.lazy_until
        bits.clear(port)


def test_backends_that_put_their_look_off_look_in_one_order(guest: Tiny) -> None:
    """Of the names, not of a set: a replay in another process looks in the same."""
    events, looked = guest.domain.events, list[str]()
    names = [f"vbd-{number}" for number in range(51712, 51752)]
    for name in reversed(names):
        events.unhurried[name] = partial(looked.append, name)
        events.put_off.add(name)
    events.flush_late()
    assert looked == names and not events.put_off


@pytest.mark.parametrize("port", [0, EVENT_PORTS, EVENT_PORTS + 1, (1 << 32) - 1])
def test_ports_that_do_not_exist(guest: Tiny, port: int) -> None:
    for command in (SEND, CLOSE, UNMASK):
        # port 0 is there, but never in use: unmasking it does nothing (evtchn_usable)
        assert guest.call_with(OP, command, "I", port) == (0 if (command, port) == (UNMASK, 0) else -EINVAL)
    assert guest.call_with(OP, BIND_VCPU, "II", port, 0) == -EINVAL


def test_the_last_port_can_be_used(guest: Tiny) -> None:
    bits = Bits(guest)
    for _ in range(EVENT_PORTS - 1 - len(guest.domain.events.ports)):
        guest.domain.events.allocate(Port(INTERDOMAIN))
    assert guest.call_with(OP, BIND_IPI, "II", 0, 0) == -ENOSPC
    guest.domain.events.set_pending(EVENT_PORTS - 1)
    assert bits.pending(EVENT_PORTS - 1)
    assert bits.selector == 1 << 63


def test_a_closed_port_is_free_and_quiet(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_IPI, "II", 0, 0)
    assert guest.call_with(OP, SEND, "I", port) == 0
    assert guest.call_with(OP, CLOSE, "I", port) == 0
    assert not bits.pending(port)
    assert guest.call_with(OP, SEND, "I", port) == -EINVAL
    assert guest.call_with(OP, CLOSE, "I", port) == -EINVAL
    guest.domain.events.set_pending(port)
    assert not bits.pending(port)
    assert bound(guest, BIND_IPI, "II", 0, 0) == port, "the lowest free number comes again"


def test_virqs(guest: Tiny) -> None:
    port = bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    assert guest.call_with(OP, BIND_VIRQ, "III", 0, 0, 0) == -EEXIST
    assert guest.call_with(OP, BIND_VIRQ, "III", 24, 0, 0) == -EINVAL
    assert guest.call_with(OP, BIND_VIRQ, "III", 1, 5, 0) == -ENOENT
    assert guest.call_with(OP, SEND, "I", port) == -EINVAL, "nobody sends to a VIRQ"
    assert guest.call_with(OP, BIND_VCPU, "II", port, 0) == -EINVAL
    assert guest.call_with(OP, CLOSE, "I", port) == 0
    assert bound(guest, BIND_VIRQ, "III", 0, 0, 0) == port


def test_a_global_virq_that_moved_to_another_vcpu_is_closed_and_bound_anew() -> None:
    with tiny(vcpus=2) as guest:
        port = bound(guest, BIND_VIRQ, "III", 3, 0, 0)  # VIRQ_DOM_EXC
        assert guest.call_with(OP, BIND_VCPU, "II", port, 1) == 0
        assert guest.call_with(OP, BIND_VIRQ, "III", 3, 0, 0) == -EEXIST
        assert guest.call_with(OP, CLOSE, "I", port) == 0
        assert bound(guest, BIND_VIRQ, "III", 3, 0, 0) == port


def test_what_no_domain_of_ours_may(guest: Tiny) -> None:
    assert guest.call_with(OP, BIND_PIRQ, "III", 1, 0, 0) < 0
    assert guest.call_with(OP, ALLOC_UNBOUND, "HHI", 5, 0, 0) in (-EPERM, -ESRCH)
    assert guest.call_with(OP, BIND_INTERDOMAIN, "HxxII", 77, 1, 0) in (-ESRCH, -EINVAL)
    assert guest.call_with(OP, STATUS, "HxxIIIII", 9, 1, 0, 0, 0, 0) in (-EPERM, -ESRCH)
    for command in (11, 12, 13, 14, 99):
        assert guest.call_with(OP, command, "QQ", 0, 0) in (-ENOSYS, -EINVAL, -EOPNOTSUPP)
    assert guest.call(OP, SEND, va(300)) == -14


def test_a_channel_to_oneself_carries_events_both_ways(guest: Tiny) -> None:
    bits = Bits(guest)
    near = bound(guest, ALLOC_UNBOUND, "HHI", SELF, SELF, 0)
    assert guest.call_with(OP, SEND, "I", near) == 0, "nobody is there: the event is lost, as in Xen"
    far = bound(guest, BIND_INTERDOMAIN, "HxxII", SELF, near, 0)
    assert far != near
    bits.clear(near)
    bits.clear(far)
    assert guest.call_with(OP, SEND, "I", near) == 0
    assert (bits.pending(near), bits.pending(far)) == (False, True)
    assert guest.call_with(OP, SEND, "I", far) == 0
    assert bits.pending(near)
    assert guest.call_with(OP, CLOSE, "I", far) == 0
    assert guest.call_with(OP, STATUS, "HxxIIIII", SELF, near, 0, 0, 0, 0) == 0
    assert int.from_bytes(guest.get(DATA, 4, 8), "little") == 1, "its far end closed: it is unbound again"
    assert guest.call_with(OP, SEND, "I", near) == 0


def test_status_tells_what_a_port_is(guest: Tiny) -> None:
    virq, ipi = bound(guest, BIND_VIRQ, "III", 0, 0, 0), bound(guest, BIND_IPI, "II", 0, 0)
    unbound = bound(guest, ALLOC_UNBOUND, "HHI", SELF, 0, 0)
    for port, kind in ((virq, 4), (ipi, 5), (unbound, 1), (0, 0), (63, 0)):
        assert guest.call_with(OP, STATUS, "HxxIIIII", SELF, port, 9, 9, 9, 9) == 0
        assert int.from_bytes(guest.get(DATA, 4, 8), "little") == kind
    assert guest.call_with(OP, STATUS, "HxxIIIII", SELF, 64, 9, 9, 9, 9) == -EINVAL, "no bucket of ports goes so far yet"


def test_the_older_form_of_the_hypercall(guest: Tiny) -> None:
    assert guest.call("event_channel_op_compat", guest.put(DATA, struct.pack("<III", BIND_IPI, 0, 0))) == 0
    assert int.from_bytes(guest.get(DATA, 4, 8), "little") in guest.domain.events.ports
    assert guest.call("event_channel_op_compat", guest.put(DATA, struct.pack("<II", RESET, SELF))) == -ENOSYS


def test_a_reset_of_many_ports_lets_others_in(guest: Tiny) -> None:
    """XSA-344: evtchn_reset was one long run. A piece at a time is closed, and the hypercall is issued again."""
    for _ in range(1000):
        guest.domain.events.allocate(Port(UNBOUND))
    core = guest.domain.core
    core.regs[0], core.regs[7], core.regs[6] = HYPERCALL_NUMBER["event_channel_op"], RESET, guest.put(DATA, struct.pack("<H", SELF))
    left = [len(guest.domain.events.ports)]
    while left[-1]:
        rip = core.rip
        core.on_trap(VECTOR_SYSCALL)
        left.append(len(guest.domain.events.ports))
        assert (core.rip == rip) == bool(left[-1])
    assert max(before - after for before, after in pairwise(left)) <= 256
    assert guest.domain.events.allocate(Port(UNBOUND)) == 1


def test_reset_closes_all(guest: Tiny) -> None:
    for _ in range(5):
        bound(guest, BIND_IPI, "II", 0, 0)
    assert guest.call_with(OP, RESET, "H", SELF) == 0
    assert not guest.domain.events.ports
    assert not guest.domain.events.virqs


# --- blocking, polling, -------------------------------------------------------------------------------------------------


def test_a_block_ends_with_an_event(guest: Tiny) -> None:
    port = bound(guest, ALLOC_UNBOUND, "HHI", SELF, 7, 0)
    guest.domain.events.accept(port, 7, 3)
    assert guest.call("sched_op", 1) == 0
    assert blocked(guest)
    assert not guest.domain.vcpus[0].upcall_masked, "blocking unmasks"
    guest.domain.post(Signal(7, 3, port))
    guest.domain.slice(1_000_000)
    assert not blocked(guest)
    assert guest.domain.core.rip == EVENT


def test_a_block_with_an_event_waiting_does_not_sleep(guest: Tiny) -> None:
    port = bound(guest, BIND_IPI, "II", 0, 0)
    guest.domain.events.set_pending(port)
    assert guest.call("sched_op", 1) == 0
    assert not blocked(guest)
    assert guest.domain.core.rip == EVENT


def test_a_masked_port_does_not_end_a_block_but_ends_a_poll(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_IPI, "II", 0, 0)
    bits.mask(port)
    assert guest.call("sched_op", 1) == 0
    guest.domain.events.set_pending(port)
    assert blocked(guest)
    guest.domain.vcpus[0].wake()
    bits.clear(port)
    guest.domain.vcpus[0].upcall_masked = True
    assert poll(guest, [port]) == 0
    assert blocked(guest)
    guest.domain.events.set_pending(port)
    assert not blocked(guest)


def poll(guest: Tiny, ports: list[int], timeout: int = 0) -> int:
    guest.put(DATA, struct.pack(f"<{len(ports)}I", *ports), 512)
    return guest.call_with("sched_op", 3, "QIxxxxQ", va(DATA, 512), len(ports), timeout)


def test_poll_returns_at_once_for_what_is_pending_or_past(guest: Tiny) -> None:
    port = bound(guest, BIND_IPI, "II", 0, 0)
    guest.domain.clock.level(1_000_000)
    assert poll(guest, [port], 1) == 0
    assert not blocked(guest)
    guest.domain.events.set_pending(port)
    assert poll(guest, [port]) == 0
    assert not blocked(guest)


def test_poll_ends_at_its_time(guest: Tiny) -> None:
    port = bound(guest, BIND_IPI, "II", 0, 0)
    guest.put(CODE, "9090ebfe")  # a hypercall made from here advances RIP by its two bytes
    guest.domain.core.rip = va(CODE)
    end = guest.domain.clock.now() + 5_000_000
    assert poll(guest, [port], end) == 0
    guest.domain.slice(100_000, 4_000_000)
    assert blocked(guest)
    guest.domain.slice(100_000, end + 1_000_000)
    assert not blocked(guest)
    assert guest.domain.core.rip == va(CODE, 2), "a poll delivers nothing"


def test_poll_waits_for_a_port_that_nobody_has_allocated(guest: Tiny) -> None:
    assert poll(guest, [5]) == 0
    assert blocked(guest)


def test_poll_refuses_nonsense(guest: Tiny) -> None:
    assert poll(guest, [EVENT_PORTS]) == -EINVAL
    assert guest.call_with("sched_op", 3, "QIxxxxQ", va(DATA), 129, 0) == -EINVAL
    assert guest.call_with("sched_op", 3, "QIxxxxQ", va(300), 1, 0) == -14
    assert not blocked(guest)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=60))
def test_no_event_is_ever_lost(shared_guest: Tiny, actions: list[tuple[int, int]]) -> None:
    """Whatever order of sends, masks, unmasks and takes: an unmasked pending port is always reachable from the upcall."""
    bits, events = Bits(shared_guest), shared_guest.domain.events
    for action, port in actions:
        if action == 0:
            events.set_pending(port)
        elif action == 1:
            bits.mask(port)
        elif action == 2:
            events.unmask(port)
        elif action == 3:  # an upcall handler: takes the selector, then each of its unmasked ports
            selector = bits.selector
            bits.take()
            for number in range(1, 7):
                if selector >> (number >> 6) & 1 and not events.masked(number):
                    bits.clear(number)
        waiting = [number for number in range(1, 7) if bits.pending(number) and not events.masked(number)]
        if waiting:
            assert bits.upcall
            assert all(bits.selector >> (number >> 6) & 1 for number in waiting)


@pytest.fixture(scope="module")
def shared_guest() -> Iterator[Tiny]:
    with tiny() as made:
        while len(made.domain.events.ports) < 6:
            made.domain.events.bind_ipi(0)
        yield made
