"""Our own bug in a trap costs one domain: it ends as a crash that says so, the CPU goes on, and it can go back to a snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.benchmarks.paper import Rig, rig


@pytest.fixture
def host() -> Iterator[Rig]:
    with rig(1) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
