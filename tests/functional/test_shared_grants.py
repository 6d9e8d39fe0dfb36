"""Two live guests on two physical CPUs that map, copy, unmap and revoke each other's grants; and what becomes of them when one ends,
or goes back in time."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest

from emulator.dom0.config import parse_config
from emulator.dom0.guest import Guest
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError
from tests.functional.linux_guest import ROOT
from tests.patience import PATIENCE_SECONDS, until

COUNTS = r"(\d+) maps, (\d+) copies, (\d+) refused, (\d+) revoked, (\d+) busy, (\d+) gone, (\d+) wrong"


class Shares:
    """Guests called share1, share2 as they are made, on a host of two CPUs."""

    def __init__(self) -> None:
        self.tools = Toolstack(pool_kib=64 << 10, cpus=2)
        self.tools.start()

    def create(self, peer: int, extra: str = "") -> Guest:
        text = f'name="share{peer}"\nkernel="images/share.elf"\nextra="peer={peer} {extra}"\nmemory=4\non_crash="preserve"\n'
        domid = self.tools.create(parse_config(text, file=str(ROOT / "guests" / "test.cfg")), False, lambda told: None)
        return self.tools.guests[domid]

    def until(self, guest: Guest, pattern: str, start: int = 0) -> re.Match[str]:
        def said() -> re.Match[str] | None:
            return re.search(pattern, guest.transcript.tail(guest.transcript.end - start).decode())

        def told() -> object:
            return guest.transcript.tail(2000).decode(), [line.text for line in self.tools.log][-10:]

        until(lambda: said() or guest.domain.ended, told)
        return said() or pytest.fail(str(told()))

    def more(self, guest: Guest) -> list[int]:
        """What it counts soon."""
        match = self.until(guest, f"going: {COUNTS}", guest.transcript.end)
        print(guest.transcript.tail(2000).decode())  # shown where a count is not the expected one
        return [int(count) for count in match.groups()]

    def hears_that_the_other_is_gone(self, guest: Guest) -> None:
        """What it counts when it says so next may be of before."""
        until(lambda: self.more(guest)[5] > 0, lambda: "it does not hear that the other is gone")
        assert self.more(guest)[6] == 0

    def pool_is_exact(self) -> bool:
        claims = sum(guest.domain.ask(partial(_claim, guest)).result(PATIENCE_SECONDS) for guest in self.tools.guests.values())
        return self.tools.pool.free == self.tools.pool.total - claims


def _claim(guest: Guest) -> int:
    guest.domain.reservation.check()
    return guest.domain.reservation.claim


def _idle(guest: Guest) -> bool:
    """Nothing is granted to a guest, mapped of one, or waited for."""
    domain = guest.domain
    used = [ref for ref, active in domain.grants.active.items() if active.domid != 0]
    return not used and not domain.mappings.handles and not domain.foreign_writes.count and not any(v.answers or v.waiting for v in domain.vcpus)


@pytest.fixture
def shares() -> Iterator[Shares]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    made = Shares()
    yield made
    made.tools.stop()
    sys.setswitchinterval(before)
    assert made.tools.pool.free == made.tools.pool.total


def test_two_guests_share_at_full_speed_and_let_all_go(shares: Shares) -> None:
    pairs = count(1, 2)

    def shared() -> bool:
        """Whether they did so at the same time: when the machine stalls one may be through before the other is there."""
        first = next(pairs)
        both = shares.create(first + 1, "rounds=4000"), shares.create(first, "rounds=4000")
        enough = []
        for guest in both:
            maps, copies, _refused, revoked, busy, _gone, wrong = map(int, shares.until(guest, f"ended: {COUNTS}").groups())
            assert wrong == 0, guest.transcript.tail(2000).decode()
            enough.append(maps > 300 and copies > 300 and revoked > 20 and busy > 20)
        for guest in both:
            assert guest.domain.ask(partial(_idle, guest)).result(PATIENCE_SECONDS)
        assert shares.pool_is_exact()
        for guest in both:
            shares.tools.destroy(guest.domid)
        return all(enough)

    until(shared, lambda: "they never share at once")


def test_a_guest_dies_while_the_other_has_its_frames_mapped(shares: Shares) -> None:
    one, two = shares.create(2), shares.create(1)
    shares.more(one)
    mapped = one.domain.mappings
    while True:  # one of them at least is mapped
        shares.tools.pause(one.domid)
        if one.domain.ask(mapped.shown).result(PATIENCE_SECONDS):
            break
        shares.tools.unpause(one.domid)
    shares.tools.destroy(two.domid)
    assert 8 >= shares.tools.pool.claimed(two.domid) >= len(mapped.shown()) > 0  # what it has not taken up yet is held, too
    shares.tools.unpause(one.domid)
    shares.hears_that_the_other_is_gone(one)
    until(lambda: not shares.tools.pool.claimed(two.domid))
    assert shares.pool_is_exact()


def test_a_guest_goes_back_in_time_while_both_hold_each_others_frames(shares: Shares) -> None:
    one = shares.create(2, "hold=1")
    shares.until(one, "share: domain 1")
    shares.tools.snapshot(one.domid, "alone")
    two = shares.create(1, "hold=1")
    shares.until(one, "holding")
    shares.until(two, "holding")
    shares.tools.snapshot(one.domid, "shared")
    assert shares.more(one)[6] == shares.more(two)[6] == 0
    with pytest.raises(UserError, match=r"cannot restore 'alone': domain 2 uses its grant \d+ now"):
        shares.tools.restore(one.domid, "alone")
    for _ in range(2):
        shares.tools.restore(one.domid, "shared")
        assert shares.more(one)[6] == shares.more(two)[6] == 0
    shares.tools.destroy(two.domid)
    assert shares.tools.pool.claimed(two.domid) == 8
    shares.tools.restore(one.domid, "shared")  # it has what it mapped then, though its owner is gone
    shares.hears_that_the_other_is_gone(one)
    shares.tools.destroy(one.domid)
    assert shares.tools.pool.claimed(two.domid) == 0
