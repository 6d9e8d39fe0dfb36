"""Debian's Linux grows and shrinks by its own balloon driver when Domain-0 says so, and the host's pool stays exact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.dom0.guest import Guest
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError
from tests.functional.linux_guest import PROMPT, config_of, needs_linux, write_cfg
from tests.patience import PATIENCE_SECONDS, until

pytestmark = [pytest.mark.linux, needs_linux]
MIB = 1024


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Toolstack, Guest]]:
    cfg = write_cfg(tmp_path_factory.mktemp("balloon"), memory=128)
    cfg.write_text(cfg.read_text() + "maxmem = 256\n")
    tools = Toolstack(pool_kib=256 * MIB, cpus=1)
    tools.start()
    try:
        made = tools.guests[tools.create(config_of(cfg), False, lambda text: None)]
        until(lambda: PROMPT in made.transcript.tail(4000))
        yield tools, made
    finally:
        tools.stop()


def _total_mib(guest: Guest) -> int:
    start = guest.transcript.end
    guest.type(b"grep MemTotal /proc/meminfo\r")
    found: list[bytes] = []

    def answered() -> bool:
        found[:] = re.findall(rb"MemTotal:\s+(\d+) kB", guest.transcript.read(start, 1 << 16)[1])
        return bool(found)

    until(answered)
    return int(found[0]) // MIB


def _settled(tools: Toolstack, guest: Guest, mib: int) -> None:
    until(lambda: guest.domain.reservation.owned == mib * 256)
    guest.domain.ask(guest.domain.reservation.check).result(PATIENCE_SECONDS)
    assert tools.pool.free == tools.pool.total - guest.domain.reservation.claim
    assert guest.domain.reservation.claim == mib * 256


def test_a_linux_shrinks_and_grows_and_the_pool_follows(guest: tuple[Toolstack, Guest]) -> None:
    tools, linux = guest
    before = _total_mib(linux)
    tools.set_memory(linux.domid, 100 * MIB)
    _settled(tools, linux, 100)
    assert _total_mib(linux) == pytest.approx(before - 28, abs=2)
    tools.set_memory(linux.domid, 200 * MIB)
    _settled(tools, linux, 200)
    assert _total_mib(linux) == pytest.approx(before + 72, abs=2)


def test_a_linux_goes_no_further_than_its_maximum_and_the_hosts(guest: tuple[Toolstack, Guest]) -> None:
    tools, linux = guest
    with pytest.raises(UserError, match="more than the domain may have"):
        tools.set_memory(linux.domid, 300 * MIB)
    tools.pool.take(999, tools.pool.free)
    with pytest.raises(UserError, match="not enough memory"):
        tools.set_memory(linux.domid, 250 * MIB)
    tools.pool.give(999)
    with pytest.raises(UserError, match="less than the domain's present target"):
        tools.set_max_memory(linux.domid, 50 * MIB)
    tools.set_max_memory(linux.domid, 220 * MIB)
    with pytest.raises(UserError, match="more than the domain may have"):
        tools.set_memory(linux.domid, 230 * MIB)


def test_a_snapshot_brings_back_the_memory_it_was_taken_with(guest: tuple[Toolstack, Guest], tmp_path: Path) -> None:
    tools, linux = guest
    tools.set_memory(linux.domid, 200 * MIB)
    _settled(tools, linux, 200)
    tools.snapshot(linux.domid, "large")
    tools.set_memory(linux.domid, 100 * MIB)
    _settled(tools, linux, 100)
    tools.restore(linux.domid, "large")
    _settled(tools, linux, 200)
    assert _total_mib(linux) > 150
