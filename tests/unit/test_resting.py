"""A domain that sleeps long gives its instance of Unicorn back; it wakes with its registers, its page tables and its breakpoints, and nobody
can tell."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from emulator.dom0.guest import Guest
from emulator.machine.memory import trim_heap
from tests.benchmarks.paper import Rig, resident_kib, rig, rss
from tests.patience import until
from tests.unit.cores import Bare


@pytest.fixture
def host() -> Iterator[Rig]:
    with rig(2) as made:
        yield made


def until_resting(host: Rig, guests: list[Guest]) -> None:
    def resting() -> bool:
        host.tools.rests.look(0.05)
        return all(guest.domain.core.resting and not guest.rest_wanted for guest in guests)  # else the turn that comes ends in a rest

    until(resting, pause=0.05)


def said(guest: Guest, text: bytes, begin: int) -> bool:
    return until(lambda: text in guest.transcript.read(begin, 65536)[1])


def test_sleepers_rest_and_wake_as_they_were(host: Rig) -> None:
    guests = [host.add("shell") for _ in range(30)]
    assert all(said(guest, b"xen> ", 0) for guest in guests)
    time.sleep(0.2)
    awake = rss()
    until_resting(host, guests)
    trim_heap()
    assert (awake - rss()) / len(guests) > 400, "KiB that each should have given back"
    for number, guest in enumerate(guests):
        begin = guest.transcript.end
        guest.type(b"echo %d\r" % (number * 7919))
        assert said(guest, b"\n%d" % (number * 7919), begin)
        assert not guest.domain.core.resting


def test_what_is_asked_of_a_resting_domain_rouses_it(host: Rig) -> None:
    guest = host.add("shell")
    assert said(guest, b"xen> ", 0)
    until_resting(host, [guest])
    taken = host.tools.snapshot(guest.domid, "asleep")
    until_resting(host, [guest])
    host.tools.pause(guest.domid)
    until_resting(host, [guest])
    host.tools.restore(guest.domid, taken.name)
    host.tools.unpause(guest.domid)
    begin = guest.transcript.end
    guest.type(b"echo again\r")
    assert said(guest, b"\nagain", begin)
    until_resting(host, [guest])
    host.tools.destroy(guest.domid)


def test_one_that_computes_never_rests(host: Rig) -> None:
    guest = host.add("counter")
    for _ in range(5):
        time.sleep(0.05)
        host.tools.rests.look(0)
    assert not guest.domain.core.resting


def test_a_core_comes_back_with_its_state_and_its_breakpoints() -> None:
    bare = Bare()
    try:
        bare.trap("48b88877665544332211 660f6ec8 f9 0f0b")  # mov rax, …; movd xmm1, eax; stc; ud2
        bare.core.set_breakpoints([0x1234, 0, 0, 0], 0x401)
        before = bare.core.save()
        bare.core.rest()
        assert bare.core.resting
        bare.core.flush_tlb()
        bare.core.flush_code()
        bare.core.forget_frame(1)
        bare.core.rouse()
        assert bare.core.save() == before
        assert bare.core.debug_register(0) == 0x1234
        bare.core.rest()
    finally:
        bare.close()


def test_a_domain_at_rest_costs_less_than_900_kib_beside_its_own_pages(host: Rig) -> None:
    empty = rss()
    guests = [host.add("shell") for _ in range(40)]
    assert all(said(guest, b"xen> ", 0) for guest in guests)
    own = sum(map(resident_kib, guests))
    until_resting(host, guests)
    trim_heap()
    assert (rss() - empty - own) / len(guests) < 900
