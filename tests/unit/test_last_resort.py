"""Our own bug in a trap costs one domain: it ends as a crash that says so, the CPU goes on, and it can go back to a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks.paper import Rig, rig
from tests.patience import until


@pytest.fixture
def host() -> Iterator[Rig]:
    with rig(1) as made:
        yield made


@pytest.mark.parametrize("failure", [KeyError("a number"), MemoryError(), OverflowError("too large")])
def test_a_failure_in_a_trap_ends_one_domain_and_a_snapshot_brings_it_back(host: Rig, failure: Exception) -> None:
    def broken(vector: int) -> None:
        raise failure

    other = host.add("shell")
    guest = host.add("shell", 'on_crash = "preserve"')
    until(lambda: b"xen> " in guest.transcript.read(0, 65536)[1])
    host.tools.snapshot(guest.domid, "before")
    handler, guest.domain.core.on_trap = guest.domain.core.on_trap, broken
    guest.type(b"echo one\r")
    until(lambda: guest.domain.ended == "crash")
    assert guest.domain.crash_reason == f"hypervisor bug: {type(failure).__name__}: {failure}"
    begin = other.transcript.end
    other.type(b"echo still\r")
    until(lambda: b"\nstill" in other.transcript.read(begin, 65536)[1])
    guest.domain.core.on_trap = handler
    host.tools.restore(guest.domid, "before")
    begin = guest.transcript.end
    guest.type(b"echo two\r")
    until(lambda: b"\ntwo" in guest.transcript.read(begin, 65536)[1])


def test_one_that_crashes_in_the_turn_after_which_it_rests_is_followed_up(host: Rig) -> None:
    guest = host.add("shell", 'on_crash = "preserve"')
    until(lambda: b"xen> " in guest.transcript.read(0, 65536)[1])
    guest.domain.core.on_trap = lambda vector: guest.domain.crash("here")
    guest.rest_wanted = True
    guest.type(b"echo one\r")
    until(lambda: guest.domid in host.tools.autopsies)
    assert host.tools.autopsies[guest.domid].reason == "here"


def test_a_failure_in_following_up_one_end_does_not_keep_others_from_it(host: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    guests = [host.add("shell") for _ in range(2)]
    until(lambda: all(b"xen> " in guest.transcript.read(0, 65536)[1] for guest in guests))
    shut_down = host.tools.store.shut_down

    def failing(domid: int) -> None:
        if domid == guests[0].domid:
            raise OSError(24, "too many open files")
        shut_down(domid)

    monkeypatch.setattr(host.tools.store, "shut_down", failing)
    for guest in guests:
        guest.domain.core.on_trap = lambda vector, domain=guest.domain: domain.crash("here")  # type: ignore[misc]
        guest.type(b"echo one\r")
    until(lambda: guests[1].domid not in host.tools.guests)


def test_what_is_asked_of_a_domain_that_is_gone_is_cancelled_at_once(host: Rig) -> None:
    guest = host.add("shell")
    host.tools.destroy(guest.domid)
    assert guest.domain.ask(lambda: None).cancelled()
