"""sched_op beyond blocking and polling: watchdogs, yielding, and how a domain says that it ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi.errno import EFAULT, EINVAL, ENOSPC, ENOSYS, EPERM, ESRCH
from tests.unit.domains import CODE, FREE_SLOT, Tiny, va

YIELD, SHUTDOWN, REMOTE_SHUTDOWN, SHUTDOWN_CODE, WATCHDOG, PIN_OVERRIDE = 0, 2, 4, 5, 6, 7
SECOND = 1_000_000_000
SPIN = "ebfe"


@pytest.fixture
def guest() -> Iterator[Tiny]:
    made = Tiny(vcpus=2)
    yield made
    made.domain.close()


def watchdog(guest: Tiny, number: int, seconds: int) -> int:
    return guest.call_with("sched_op", WATCHDOG, "II", number, seconds)


def pass_time(guest: Tiny, ns: int) -> None:
    guest.domain.core.rip = guest.put(CODE, SPIN)
    guest.domain.slice(1000, guest.domain.clock.now() + ns)


def test_a_watchdog_that_is_fed_does_not_bite_and_one_that_is_not_does(guest: Tiny) -> None:
    first = watchdog(guest, 0, 10)
    assert first == 1
    for _ in range(5):
        pass_time(guest, 9 * SECOND)
        assert watchdog(guest, first, 10) == 0
    assert guest.call("vcpu_op", 3, 0) == 1
    pass_time(guest, 11 * SECOND)
    assert guest.domain.ended == "watchdog"


def test_there_are_two_and_they_can_be_put_away(guest: Tiny) -> None:
    assert [watchdog(guest, 0, 5) for _ in range(3)] == [1, 2, -ENOSPC]
    assert watchdog(guest, 3, 5) == -EINVAL
    assert watchdog(guest, 2, 0) == 0
    assert watchdog(guest, 2, 5) == -EINVAL, "it is not in use"
    assert watchdog(guest, 1, 0) == 0
    pass_time(guest, 60 * SECOND)
    assert guest.domain.ended == ""
    assert watchdog(guest, 0, 5) == 1


def test_a_new_watchdog_of_no_time_bites_at_once(guest: Tiny) -> None:
    assert watchdog(guest, 0, 0) == 1
    pass_time(guest, 1_000_000)
    assert guest.domain.ended == "watchdog"


def test_a_blocked_domain_is_woken_by_its_watchdog(guest: Tiny) -> None:
    assert watchdog(guest, 0, 3) == 1
    assert guest.call("sched_op", 1) == 0
    assert guest.domain.blocked
    assert 2 * SECOND < guest.domain.time.next_deadline() <= guest.domain.clock.now() + 3 * SECOND
    guest.domain.slice(1000, guest.domain.clock.now() + 4 * SECOND)
    assert guest.domain.ended == "watchdog"


def test_a_yield_ends_the_turn_and_no_more(guest: Tiny) -> None:
    assert guest.call("sched_op", YIELD) == 0
    assert not guest.domain.blocked
    assert guest.domain.runnable


REASONS = [(0, "poweroff"), (1, "reboot"), (2, "suspend"), (3, "crash"), (4, "watchdog"), (77, "reason 77"), (256, "poweroff")]


@pytest.mark.parametrize(("code", "reason"), REASONS)
@pytest.mark.parametrize("name", ["sched_op", "sched_op_compat"])
def test_any_reason_ends_a_domain(guest: Tiny, name: str, code: int, reason: str) -> None:
    if name == "sched_op":
        guest.call_with(name, SHUTDOWN, "I", code)
    else:
        guest.call(name, SHUTDOWN, code)
    assert guest.domain.ended == reason


def test_what_is_for_others_is_refused(guest: Tiny) -> None:
    guest.domain.domid_exists = lambda domid: domid in (0, 1)
    assert guest.call_with("sched_op", REMOTE_SHUTDOWN, "HxxI", 0, 0) == -EPERM
    assert guest.call_with("sched_op", REMOTE_SHUTDOWN, "HxxI", 9, 0) == -ESRCH
    assert guest.call_with("sched_op", PIN_OVERRIDE, "i", 0) == -EPERM
    assert guest.call_with("sched_op", 99, "i", 0) == -ENOSYS
    for command in (SHUTDOWN, 3, REMOTE_SHUTDOWN, WATCHDOG):
        assert guest.call("sched_op", command, va(FREE_SLOT)) == -EFAULT
    assert struct.calcsize("<HxxI") == 8
    assert guest.domain.ended == ""
