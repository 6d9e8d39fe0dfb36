"""A domain that goes while somebody looks: the look is whole, or says that the domain is gone; nothing is set aside for it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.control.host import Host
from emulator.dom0 import overhead
from emulator.dom0.backends.block.disks import open_disk
from emulator.dom0.balloonpolicy import BalloonPolicy
from emulator.dom0.diskspec import parse_disk
from emulator.dom0.scheduling import SchedOrder
from emulator.dom0.vifspec import parse_vif
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS
from tests.unit.test_creation import named

_A_MOMENT = 0.3
"""Seconds in which a small domain is destroyed where nothing holds that up."""


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(pool_kib=64 << 10, cpus=1)  # not started: nobody takes up the domains
    made._empty_kib = 0
    yield made
    for domid in list(made._tools.guests):
        made.destroy(domid)


class Leaving:
    """Has a domain destroyed by another thread when a method of `owner` is called next; the call goes on then, or after a moment."""

    def __init__(self, patch: pytest.MonkeyPatch, host: Host, domid: int) -> None:
        self._patch, self._thread = patch, threading.Thread(target=host.destroy, args=(domid,))

    def at(self, owner: object, name: str) -> None:
        method = getattr(owner, name)

        def hook(*given: Any, **named: Any) -> Any:
            self._patch.setattr(owner, name, method)
            if self._thread.ident is None:
                self._thread.start()
                self._thread.join(_A_MOMENT)
            return method(*given, **named)

        self._patch.setattr(owner, name, hook)

    def wait(self) -> None:
        self._thread.join()


@pytest.mark.parametrize(("owner", "name", "look"), [
    (lambda host: host, "_domain0", lambda host: [row.domid for row in host.overview().domains]),
    (lambda host: host._tools.store, "read", lambda host: [0, *(member.domid for _name, member in host.balloon_policy().members)]),
])  # fmt: skip
def test_a_list_shows_all_that_were_there_when_it_was_begun(
    host: Host, monkeypatch: pytest.MonkeyPatch, owner: Callable[[Host], object], name: str, look: Callable[[Host], list[int]]
) -> None:
    first, second = host.create(named("a")), host.create(named("b"))
    leaving = Leaving(monkeypatch, host, second)
    leaving.at(owner(host), name)
    assert look(host) == [0, first, second]
    leaving.wait()
    assert look(host) == [0, first]


def test_the_balloon_policy_outlives_who_leaves(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.create(named("a"))
    leaving = Leaving(monkeypatch, host, host.create(named("b")))
    leaving.at(host._tools.store, "read")
    host._tools.autoballoon.round(BalloonPolicy())
    leaving.wait()


def test_the_balloon_policy_is_off_when_it_is_said_to_be(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that was under way moved a target after that."""
    monkeypatch.setattr("emulator.dom0.autoballoon._PERIOD_S", 0.01)
    deciding, go = threading.Event(), threading.Event()

    def slow(policy: BalloonPolicy) -> None:
        deciding.set()
        go.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(host._tools.autoballoon, "round", slow)
    host.set_balloon_policy(True)
    deciding.wait(PATIENCE_SECONDS)
    off = threading.Thread(target=host.set_balloon_policy, args=(False,))
    off.start()
    off.join(_A_MOMENT)
    assert off.is_alive()
    go.set()
    off.join()
    assert not host.balloon_policy().on


def test_what_domains_cost_is_told_of_all_of_them(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.create(named("a"))
    leaving = Leaving(monkeypatch, host, host.create(named("b")))
    leaving.at(overhead, "memory_kib")
    assert host.overhead().domains == 2
    leaving.wait()


def test_details_are_of_a_domain_that_is_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    domid = host.create(named("a"))
    leaving = Leaving(monkeypatch, host, domid)
    leaving.at(host, "_mind_trace")
    with pytest.raises(UserError, match="domain 1 does not exist"):
        host.detail(domid, ("config",))
    leaving.wait()


def test_no_memory_is_set_aside_for_a_domain_that_goes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    domid, free = host.create(named("a")), host._tools.pool.total
    guest = host._tools.guest(domid)
    guest.memory.most *= 2
    leaving = Leaving(monkeypatch, host, domid)
    leaving.at(guest.memory, "set")
    host.set_memory(domid, 8 << 10)
    leaving.wait()
    assert host._tools.pool.free == free


@pytest.mark.parametrize("kind", ["vifs", "disks"])
def test_a_device_may_go_while_a_restore_pulls_out_another(host: Host, tmp_path: Path, kind: str) -> None:
    guest = host._tools.guest(host.create(named("a")))
    guest.album.take("then")
    for name in "ab":
        if kind == "vifs":
            guest.vifs.attach(parse_vif(f"bridge=br{name}"))
        else:
            (path := tmp_path / name).write_bytes(bytes(512))
            guest.disks.attach(spec := parse_disk(f"{path},raw,xvd{name},ro"), open_disk(spec))
    devices: dict[int, Any] = getattr(guest, kind).devices
    gone = tuple(devices.values())
    for device in gone:  # a tool takes the nodes away, and the guest has not heard of it yet
        tool = threading.Thread(target=host._tools.store.remove, args=(device.front,))
        tool.start()
        tool.join()
    guest.album.restore("then")
    assert not devices and all(device.handshake.removed for device in gone)


def test_no_node_is_written_for_a_domain_that_goes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store, domid = host._tools.store, host.create(named("a"))
    before = [path for path, _value in store.subtree("/") if f"/{domid}" not in path and "/vm/" not in path]
    leaving = Leaving(monkeypatch, host, domid)
    leaving.at(store, "write")
    host.rename(domid, "b")
    leaving.wait()
    assert [path for path, _value in store.subtree("/")] == before


def test_its_share_of_the_cpus_is_refused_in_words(host: Host) -> None:
    guest, cpus = host._tools.guest(host.create(named("a"))), host._tools.cpus
    host.destroy(guest.domid)
    verbs: tuple[Callable[[], None], ...] = (
        lambda: cpus.adjust(guest, weight=300), lambda: cpus.pin(guest, None, None), lambda: cpus.move(guest, "Pool-0"),
    )  # fmt: skip
    for verb in verbs:
        with pytest.raises(UserError, match="domain 1 is gone"):
            verb()


def test_terms_are_shown_of_a_domain_that_goes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = Leaving(monkeypatch, host, host.create(named("a")))
    leaving.at(host._tools.cpus.pools, "find")
    assert host.sched(SchedOrder("credit2", 1, vcpu="all")).count("\na ") == 1
    leaving.wait()


def test_at_no_moment_is_a_domain_neither_alive_nor_known_to_be_gone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    domid = host.create(named("a"))
    core, told = host._tools.guests[domid].domain.core, list[object]()
    stop = core.stop

    def looked() -> None:
        kept = host.obituary(domid)
        told.extend((domid in host._tools.guests, kept is not None and kept.reason, host.console_read(domid, 0).offset))
        stop()

    monkeypatch.setattr(core, "stop", looked)
    host.destroy(domid)
    assert told == [False, "destroyed", 0]


def test_how_a_crashed_domain_lies_is_told_before_its_end_is_followed_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """`xenconsole create -c` ended without it when it was the first to look."""
    domid = host.create(named("a"))
    guest = host._tools.guest(domid)
    ask = guest.domain.ask

    def served(question: Callable[[], object]) -> object:
        future = ask(question)
        guest.domain.serve()
        return future

    monkeypatch.setattr(guest.domain, "ask", served)
    assert host.detail(domid, ("crash",)).crash is None
    guest.domain.crash("here")
    crash = host.detail(domid, ("crash",)).crash
    assert crash is not None and crash.reason == "here" and crash.vcpu.registers["rip"]
