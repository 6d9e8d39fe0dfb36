"""Timers of a vCPU and the clock that they go by."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi.errno import EINVAL, ENOENT, ENOSYS, ETIME
from emulator.hypervisor.mailbox import Level
from tests.unit.domains import CODE, DATA, Tiny, tiny, va
from tests.unit.event_bits import BIND_VIRQ, Bits, blocked, bound

EVENT = va(CODE, 0x500)


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        made.put(CODE, "ebfe", 0x500)
        assert made.call("set_callbacks", EVENT, EVENT, EVENT) == 0
        yield made


def test_a_singleshot_timer_fires_once_and_not_early(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    domain = guest.domain
    guest.put(CODE, "9090ebfe")  # a hypercall made from here advances RIP by its two bytes
    domain.core.rip = va(CODE)
    at = domain.clock.now() + 3_000_000
    assert guest.call("set_timer_op", at) == 0
    for _ in range(100):
        if domain.clock.now() >= at:
            break
        assert not bits.pending(port)
        domain.slice(1_000_000)
    domain.slice(10)
    assert bits.pending(port)
    assert domain.clock.now() < at + 200_000
    bits.clear(port)
    domain.slice(50_000_000)
    assert not bits.pending(port)


def test_a_timer_of_the_past_fires_at_once(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    guest.domain.clock.level(1_000_000)
    assert guest.call("set_timer_op", 5) == 0
    guest.run("ebfe", slices=2)
    assert bits.pending(port)


@pytest.mark.parametrize("deadline", [(1 << 63) + 5, (1 << 64) - 1, 1 << 51])
def test_a_wrapped_deadline_fires_after_100_ms(guest: Tiny, deadline: int) -> None:
    """do_set_timer_op's middle way for times that come from a counter that wrapped."""
    now = guest.domain.clock.now()
    assert guest.call("set_timer_op", deadline) == 0
    assert 100_000_000 <= guest.domain.current.timers.singleshot - now < 100_100_000


def test_a_vcpus_timers(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    domain = guest.domain
    assert guest.call("vcpu_op", 7, 0) == 0
    domain.clock.level(10_000_000)
    assert guest.call("vcpu_op", 8, 0, guest.put(DATA, struct.pack("<QI", 5, 1))) == -ETIME
    assert guest.call("vcpu_op", 8, 0, guest.put(DATA, struct.pack("<QI", domain.clock.now() + 1_000_000, 1))) == 0
    assert guest.call("vcpu_op", 9, 0) == 0
    guest.put(CODE, "9090ebfe")  # a hypercall made from here advances RIP by its two bytes
    domain.core.rip = va(CODE)
    domain.slice(20_000_000)
    assert not bits.pending(port), "it was stopped"
    assert guest.call("vcpu_op", 6, 0, guest.put(DATA, struct.pack("<Q", 999_999))) == -EINVAL
    assert guest.call("vcpu_op", 6, 0, guest.put(DATA, struct.pack("<Q", 2_000_000))) == 0
    domain.core.rip = va(CODE)
    fired = 0
    for _ in range(40):
        domain.slice(4_000_000)
        fired += bits.pending(port)
        bits.clear(port)
    assert 8 <= fired <= 11, "20 ms of a period of 2 ms"
    assert guest.call("vcpu_op", 7, 0) == 0
    assert guest.call("vcpu_op", 8, 7, guest.put(DATA, bytes(16))) == -ENOENT
    assert guest.call("vcpu_op", 99, 0, 0) == -ENOSYS


def test_a_vcpu_ticks_100_times_a_second_until_it_is_told_not_to(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    domain = guest.domain
    guest.run("ebfe")
    fired = 0
    for _ in range(60):
        domain.slice(1_000_000 << 3)
        fired += bits.pending(port)
        bits.clear(port)
    assert 5 <= fired <= 6, "60 ms of a period of 10 ms"
    domain.core.rip = guest.put(CODE, "9090ebfe")
    assert guest.call("vcpu_op", 7, 0) == 0
    for _ in range(30):
        domain.slice(1_000_000 << 3)
    assert not bits.pending(port)


def test_a_ticker_stands_still_while_its_vcpu_blocks(guest: Tiny) -> None:
    bits, port = Bits(guest), bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    assert guest.call("sched_op", 1) == 0
    assert guest.domain.time.next_deadline() == 0
    guest.domain.slice(1000, 40_000_000)
    assert blocked(guest)
    assert not bits.pending(port)
    guest.domain.vcpus[0].wake()
    guest.domain.slice(1000)
    assert bits.pending(port), "what it missed comes with its next turn, once"


def test_a_timer_ends_a_block(guest: Tiny) -> None:
    bound(guest, BIND_VIRQ, "III", 0, 0, 0)
    domain = guest.domain
    at = domain.clock.now() + 1_000_000
    assert guest.call("set_timer_op", at) == 0
    assert guest.call("sched_op", 1) == 0
    domain.slice(1000)
    assert blocked(guest)
    assert domain.time.next_deadline() == at
    domain.slice(1000, at + 10)
    assert not blocked(guest)
    assert domain.core.rip == EVENT


def test_time_never_goes_back(guest: Tiny) -> None:
    domain = guest.domain
    Level(5_000_000).apply(domain)
    now = domain.clock.now()
    assert now >= 5_000_000
    Level(1_000).apply(domain)
    assert domain.clock.now() == now
