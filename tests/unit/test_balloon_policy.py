"""The balloon policy on a simulated host: guests that use what they use, and follow their targets in their own time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.control.commands import run_command
from emulator.control.engine import _make_host, _options
from emulator.control.host import Host
from emulator.dom0.balloonpolicy import HUNGRY, IDLE, BalloonPolicy, Member
from emulator.errors import UserError

MIB = 1024
IMAGES = Path(__file__).resolve().parents[2] / "guests/images"


@dataclass
class Guest:
    """`use`: KiB that its programs hold; `pace`: KiB that its balloon moves in a round; `lie`: what it says instead, None for the truth."""

    least: int
    most: int
    target: int
    use: int
    pace: int = 64 * MIB
    lie: int | None = None
    silent: bool = False
    owned: int = 0

    def member(self, domid: int) -> Member:
        free = None if self.silent else max(0, self.owned - self.use) if self.lie is None else self.lie
        return Member(domid, self.least, self.most, self.target, self.owned, free)


class Pool:
    def __init__(self, guests: list[Guest], spare: int) -> None:
        self.guests = guests
        for guest in guests:
            guest.owned = guest.target
        self.total = sum(guest.owned for guest in guests) + spare
        self.policy = BalloonPolicy()

    @property
    def free(self) -> int:
        return self.total - sum(max(guest.owned, guest.target) for guest in self.guests)

    def round(self) -> int:
        """How many orders were given."""
        orders = self.policy.decide([guest.member(number) for number, guest in enumerate(self.guests)], self.free)
        for order in orders:
            guest = self.guests[order.domid]
            assert guest.least <= order.target <= guest.most, "beyond what the configuration allows"
            assert order.target != guest.target and abs(order.target - guest.target) % MIB == 0
            assert guest.owned == guest.target, "it is still on its way to the last one"
            guest.target = order.target
            assert self.free >= 0, "the pool has not that much"
        assert len({order.domid for order in orders}) == len(orders)
        for guest in self.guests:
            step = max(-guest.pace, min(guest.pace, guest.target - guest.owned))
            guest.owned += step
        return len(orders)


mib = st.integers(16, 512)


@st.composite
def guests(draw: st.DrawFn) -> Guest:
    least, target, most = sorted(draw(st.tuples(mib, mib, mib)))
    lie = draw(st.one_of(st.none(), st.none(), st.integers(0, 1 << 40)))
    return Guest(least * MIB, most * MIB, target * MIB, draw(st.integers(0, 600 * MIB)), draw(st.integers(1, 64)) * MIB, lie, draw(st.booleans()))


@settings(deadline=None)
@given(st.lists(guests(), min_size=1, max_size=6), st.integers(0, 256), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 600)), max_size=4))
def test_bounds_and_pool_are_kept_and_under_a_constant_load_it_comes_to_rest(made: list[Guest], spare: int, changes: list[tuple[int, int]]) -> None:
    host = Pool(made, spare * MIB)
    for number, use in changes:
        for _ in range(6):
            host.round()
        made[number % len(made)].use = use * MIB
    for _ in range(150):
        host.round()
    honest = [guest for guest in made if guest.lie is None]
    if len(honest) == len(made):
        assert sum(host.round() for _ in range(20)) == 0, "it goes to and fro"


def test_a_hungry_domain_gets_what_is_free_first_and_then_what_an_idle_one_has() -> None:
    hungry, idle = Guest(64 * MIB, 512 * MIB, 128 * MIB, 300 * MIB), Guest(128 * MIB, 512 * MIB, 512 * MIB, 60 * MIB)
    host = Pool([hungry, idle], 20 * MIB)
    host.round()
    host.round()
    assert hungry.target == (128 + 20) * MIB, "at its second look it gives what there is"
    for _ in range(60):
        host.round()
    assert hungry.owned - hungry.use >= HUNGRY * hungry.target and idle.target < 512 * MIB
    assert idle.owned - idle.use >= HUNGRY * idle.target


def test_nobody_gives_while_nobody_wants_and_the_silent_are_left_alone() -> None:
    idle, silent = Guest(16 * MIB, 512 * MIB, 512 * MIB, MIB), Guest(16 * MIB, 512 * MIB, 256 * MIB, 256 * MIB, silent=True)
    host = Pool([idle, silent], 512 * MIB)
    assert sum(host.round() for _ in range(20)) == 0


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_liar_takes_nobody_below_its_least_and_gets_no_more_than_its_most(free: int) -> None:
    liar, other = Guest(64 * MIB, 256 * MIB, 128 * MIB, 0, lie=free), Guest(100 * MIB, 300 * MIB, 300 * MIB, 10 * MIB)
    host = Pool([liar, other], 0)
    for _ in range(100):
        host.round()
    assert liar.target <= 256 * MIB and other.target >= 100 * MIB


def test_between_hungry_and_idle_nothing_moves() -> None:
    for percent in range(int(HUNGRY * 100) + 1, int(IDLE * 100)):
        calm, hungry = Guest(MIB, 400 * MIB, 200 * MIB, 200 * MIB * (100 - percent) // 100), Guest(MIB, 400 * MIB, 100 * MIB, 100 * MIB)
        host = Pool([calm, hungry], 0)
        assert sum(host.round() for _ in range(10)) == 0


@pytest.fixture
def host() -> Iterator[Host]:
    options = _options(["--fd", "0", "--pool-mib", "64", "--cpus", "1", "--xenstored", "off", "--balloon-policy=on"])
    made = _make_host(options)
    assert isinstance(made, Host)
    yield made
    made.stop()


def ask(host: Host, name: str, **args: str | int) -> str:
    return run_command(host, name, args, lambda text: None).message


def make(host: Host, extra: str = "") -> int:
    text = f'name = "guest{extra[-2:]}"\nkernel = "{IMAGES / "counter"}.elf"\nmemory = 16\nmaxmem = 24\n{extra}'
    return run_command(host, "create", {"text": text}, lambda said: None).domid


def test_the_engines_option_starts_it_and_the_command_turns_it_on_and_off_and_takes_nothing_else(host: Host) -> None:
    assert host.balloon_policy().on
    for state in ("off", "on"):
        assert ask(host, "balloon-policy", state=state).startswith(f"balloon policy {state}: ")
        assert host.balloon_policy().on is (state == "on")
    with pytest.raises(UserError, match="neither on nor off"):
        ask(host, "balloon-policy", state="maybe")
    assert host.balloon_policy().on


def test_each_domain_has_a_minimum_of_its_own_that_is_seen_and_changed_live(host: Host) -> None:
    plain, given = make(host), make(host, "minmem = 12")
    assert [member.least for _name, member in host.balloon_policy().members] == [8 * MIB, 12 * MIB]
    ask(host, "mem-min", domid=plain, kib=10 * MIB)
    shown = ask(host, "balloon-policy").splitlines()
    assert shown[2].split()[2:5] == ["10m", "16m", "24m"] and shown[3].split()[2:5] == ["12m", "16m", "24m"] and "not said" in shown[3]
    for domid, frames in ((plain, 10 * 256), (given, 12 * 256)):
        memory = host.detail(domid, ("memory",)).memory
        assert memory is not None and memory.minimum == frames
    for kib in (3 * MIB, 25 * MIB):
        with pytest.raises(UserError, match="will not do as a domain's minimum"):
            ask(host, "mem-min", domid=plain, kib=kib)
    ask(host, "mem-set", domid=plain, kib=6 * MIB)
    assert host.balloon_policy().members[0][1].least == 6 * MIB, "what a person took below it is not given back"


@pytest.mark.parametrize("minmem", [3, 25])
def test_a_minimum_in_a_cfg_lies_between_what_a_kernel_needs_and_maxmem(host: Host, minmem: int) -> None:
    with pytest.raises(UserError, match=f"minmem: {minmem} is not between 4 and 24"):
        make(host, f"minmem = {minmem}")
