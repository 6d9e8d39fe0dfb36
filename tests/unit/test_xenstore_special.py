"""@introduceDomain and @releaseDomain: who hears of domains that come, shut down and go, and how often."""

from __future__ import annotations

import pytest

from emulator.dom0.xenstore import Store, wire
from tests.unit.xenstore_client import Client, introduced

OK = b"OK\0"


@pytest.fixture
def store() -> Store:
    return Store()


def test_domain_0_hears_of_domains_that_come_and_go(store: Store) -> None:
    tool = Client(store.connect(0))
    for path in ("@introduceDomain", "@releaseDomain"):
        tool.ask(wire.XS_WATCH, path, "t")
    tool.heard()
    introduced(store, 4)
    assert tool.heard() == [("@introduceDomain", "t")]
    store.shut_down(4)
    assert tool.heard() == [("@releaseDomain", "t")]
    store.release(4)
    assert tool.heard() == [("@releaseDomain", "t")]


def test_special_events_are_heard_each_time_and_by_whom_domain_0_lets(store: Store) -> None:
    tool, guest, other = Client(store.connect(0)), introduced(store, 1), introduced(store, 2)
    for listener in (tool, guest, other):
        assert listener.ask(wire.XS_WATCH, "@releaseDomain", "t") == OK
        listener.heard()
    assert guest.ask(wire.XS_SET_PERMS, "@releaseDomain", "n0", "r1") == b"!EACCES"
    assert tool.ask(wire.XS_SET_PERMS, "@releaseDomain", "n0", "r1") == OK
    assert tool.ask(wire.XS_SET_PERMS, "@other", "n0") == b"!EINVAL"
    assert tool.ask(wire.XS_GET_PERMS, "@releaseDomain") == b"!EINVAL"
    for domid in (3, 4):
        introduced(store, domid)
        store.release(domid)
    assert tool.heard() == guest.heard() == [("@releaseDomain", "t")] * 2, "two of the same are two"
    assert other.heard() == []


def test_a_shutdown_is_told_once_until_the_domain_goes_on(store: Store) -> None:
    tool = Client(store.connect(0))
    tool.ask(wire.XS_WATCH, "@releaseDomain", "t")
    introduced(store, 5)
    tool.heard()
    store.shut_down(5)
    store.shut_down(5)
    assert len(tool.heard()) == 1
    assert tool.ask(wire.XS_RESUME, "5") == OK
    store.shut_down(5)
    assert len(tool.heard()) == 1
    assert tool.ask(wire.XS_RESUME, "0") == b"!EINVAL"
    assert tool.ask(wire.XS_RESUME, "6") == b"!ENOENT"


def test_a_snapshot_brings_a_domain_back_into_or_out_of_the_store(store: Store) -> None:
    guest, tool = introduced(store, 5), Client(store.connect(0))
    then = guest.connection.save()
    assert tool.ask(wire.XS_RELEASE, "5") == OK
    released = guest.connection.save()
    guest.connection.load(then)
    store.restored(5)
    assert (guest.connection.released, tool.ask(wire.XS_IS_DOMAIN_INTRODUCED, "5")) == (False, b"T\0")
    guest.connection.load(released)
    store.restored(5)
    assert (guest.connection.released, tool.ask(wire.XS_IS_DOMAIN_INTRODUCED, "5")) == (True, b"F\0")
