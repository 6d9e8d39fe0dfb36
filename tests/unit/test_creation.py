"""Creating and destroying a domain is as much work beside many domains as beside few."""

from __future__ import annotations

import gc
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from emulator.dom0.builder import write_domain
from emulator.dom0.config import DomainConfig, parse_config
from emulator.dom0.toolstack import Toolstack
from emulator.dom0.vifspec import parse_vif
from emulator.errors import UserError
from emulator.hypervisor.scheduler import SCHEDULERS, Unit, make_scheduler
from tests.benchmarks.paper import IMAGES

FEW, MANY = 140, 220
"""Both are more than the directories of xenstore that are kept as one dict."""


def named(name: str, mib: int = 4) -> DomainConfig:
    return parse_config(f'name = "{name}"\nkernel = "{IMAGES / "shell.elf"}"\nmemory = {mib}\n', file="<test>")


def calls(act: Callable[[], object]) -> int:
    """How many functions it calls, of Python and of C."""
    counted = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    gc.disable()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return counted


def test_the_work_of_creating_and_destroying_does_not_grow() -> None:
    tools = Toolstack(pool_kib=8 << 20, cpus=2)  # not started: nobody takes up the new domains meanwhile
    made: list[int] = []

    def create() -> None:
        made.append(tools.create(named(f"shell{len(made)}"), False, lambda said: None))

    def destroy() -> None:
        tools.destroy(made.pop())

    def work(count: int) -> tuple[int, int]:
        while len(made) < count:
            create()
        destroy()
        return calls(create), calls(destroy)

    try:
        few, many = work(FEW), work(MANY)
    finally:
        while made:
            destroy()
    for before, after in zip(few, many, strict=True):
        assert before > 10 and abs(after - before) < (MANY - FEW) / 8, "not one call more for eight domains more"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_nor_does_a_schedulers_part(name: str) -> None:
    scheduler = make_scheduler(name, range(2))

    def work(count: int) -> tuple[int, int]:
        units = [Unit(number, 256 + number % 3) for number in range(count)]
        for unit in units[1:]:
            scheduler.add(unit, 0)
        found = calls(lambda: scheduler.add(units[0], 0)), calls(lambda: scheduler.remove(units[0]))
        for unit in units[1:]:
            scheduler.remove(unit)
        return found

    (added, removed), (added_later, removed_later) = work(10), work(500)
    assert abs(added_later - added) < 10 and abs(removed_later - removed) < 10


def test_a_name_is_one_domains_from_its_creation_to_its_end() -> None:
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    with pytest.raises(UserError, match="not enough memory"):
        tools.create(named("a", 128), False, lambda said: None)
    with pytest.raises(UserError, match="no domain is called 'a'"):
        tools.find("a")
    first = tools.create(named("a"), False, lambda said: None)
    with pytest.raises(UserError, match="'a' exists"):
        tools.create(named("a"), False, lambda said: None)
    second = tools.create(named("b"), False, lambda said: None)
    with pytest.raises(UserError, match="'a' exists"):
        tools.rename(second, "a")
    tools.rename(first, "c")
    tools.rename(first, "c")
    tools.rename(second, "a")
    assert (tools.find("a"), tools.find("c")) == (second, first)
    tools.destroy(second)
    tools.destroy(tools.create(named("a"), False, lambda said: None))
    with pytest.raises(UserError, match="no domain is called 'a'"):
        tools.find("a")
    tools.destroy(first)


def test_nothing_is_left_of_a_domain_that_could_not_be_made() -> None:
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    config, connections = named("a"), set(tools.store.connections)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        services = f"in:{taken.getsockname()[1]}=80"
        vifs = tuple(parse_vif(text, domain="a", number=number) for number, text in enumerate(("bridge=br7", f"bridge=br8,uplink={services}")))
        with pytest.raises(UserError, match="cannot be had"):
            tools.create(replace(config, vifs=vifs), False, lambda said: None)
    assert all(tools.networks.get(name).empty for name in ("br7", "br8")) and set(tools.store.connections) == connections
    assert tools.pool.free == tools.pool.total and tools.store.read("/local/domain/1/name") is None
    tools.destroy(tools.create(config, False, lambda said: None))


def test_the_time_that_the_building_takes_is_the_guests_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wall clock lagged behind by that, a second for a large kernel."""
    built = 300_000_000

    def slowly(*given: Any) -> Any:
        time.sleep(built / 1e9)
        return write_domain(*given)

    monkeypatch.setattr("emulator.dom0.guest.write_domain", slowly)
    tools = Toolstack(pool_kib=64 << 10, cpus=1)
    guest = tools.guest(tools.create(named("a"), False, lambda said: None))
    present = time.time_ns()
    guest.turn(0, 1)
    assert guest.domain.spec.wallclock_ns + guest.domain.clock.now() > present - built // 2
    tools.destroy(guest.domid)
