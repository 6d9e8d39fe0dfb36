"""One client's connection: what each command answers, and that no bytes make it raise, hang or grow."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.xenstore import ConnectionState, Store, wire
from emulator.dom0.xenstore.server import EVENT_BYTES_HELD, INPUT_BYTES_HELD
from tests.unit.xenstore_client import Client, introduced, parse

OK = b"OK\0"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def guest(store: Store) -> Client:
    return introduced(store, 1)


def test_a_guest_reads_its_own_nodes_by_relative_and_absolute_path(guest: Client) -> None:
    assert guest.read("domid") == b"1"
    assert guest.read("/local/domain/1/name") == b"guest"
    assert guest.read("console/ring-ref") == b"4101"
    assert guest.ask(wire.XS_DIRECTORY, "cpu") == b"0\x001\0"
    assert guest.read("cpu/1/availability") == b"offline"


def test_a_guest_writes_where_libxl_lets_it(guest: Client) -> None:
    assert guest.write("data/a/b", b"bin\0ary") == OK
    assert guest.read("data/a/b") == b"bin\0ary"
    assert guest.read("data/a") == b""
    assert guest.write("control/shutdown", "") == OK
    assert guest.write("name", "other") == b"!EACCES"
    assert guest.write("fresh", "x") == b"!EACCES"
    assert guest.ask(wire.XS_GET_PERMS, "data/a/b") == b"n1\0"


def test_errors_tell_nothing_of_nodes_a_guest_may_not_see(store: Store, guest: Client) -> None:
    introduced(store, 2)
    for path in ("/", "/libxl/1", "/libxl/nothing", "/local/domain/2/name", "/local/domain/2/nothing", "/local/domain/9"):
        assert guest.read(path) == b"!EACCES"
    assert guest.read("nothing") == b"!ENOENT"


@pytest.mark.parametrize("path", ["", "a//b", "a/", "/a b", ".", "a\x7f", "ä", "/" + "x" * 3072, "y" * 2049, "@releaseDomain"])
def test_a_malformed_path_is_einval(guest: Client, path: str) -> None:
    assert guest.read(path) == b"!EINVAL"
    assert guest.write(path, "v") == b"!EINVAL"


def test_the_longest_relative_path_is_accepted(guest: Client) -> None:
    assert guest.read("data/" + "y" * (2048 - 5)) == b"!ENOENT"
    assert guest.write("data/" + "y/" * 20 + "y" * 2000, "v") == OK


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        (wire.XS_READ, b"domid", b"EINVAL"),
        (wire.XS_READ, b"", b"EINVAL"),
        (wire.XS_READ, b"domid\0x\0", b"EINVAL"),
        (wire.XS_WRITE, b"data", b"EINVAL"),
        (wire.XS_WATCH, b"data\0", b"EINVAL"),
        (wire.XS_UNWATCH, b"data\0t\0", b"ENOENT"),
        (wire.XS_TRANSACTION_END, b"T\0", b"ENOENT"),
        (wire.XS_TRANSACTION_END, b"Q\0", b"EINVAL"),
        (wire.XS_SET_PERMS, b"data\0", b"EINVAL"),
        (wire.XS_SET_PERMS, b"data\0x1\0", b"EINVAL"),
        (wire.XS_SET_PERMS, b"data\0r99999999999\0", b"EINVAL"),
        (wire.XS_SET_PERMS, b"data\0r-1\0", b"EINVAL"),
        (wire.XS_SET_PERMS, b"data\0n2\0", b"EPERM"),
        (wire.XS_SET_PERMS, b"data\0" + b"n1\0" * 6, b"ENOSPC"),
        (wire.XS_SET_PERMS, b"@releaseDomain\0n1\0", b"EACCES"),
        (wire.XS_SET_PERMS, b"name\0n1\0", b"EACCES"),
        (wire.XS_RM, b"/\0", b"EACCES"),
        (wire.XS_RM, b"name\0", b"EACCES"),
        (wire.XS_GET_DOMAIN_PATH, b"one\0", b"EINVAL"),
        (wire.XS_DIRECTORY_PART, b"device\0", b"EINVAL"),
        (wire.XS_DIRECTORY_PART, b"device\0-1\0", b"EINVAL"),
        (wire.XS_INTRODUCE, b"2\x001\x001\0", b"EACCES"),
        (wire.XS_RELEASE, b"2\0", b"EACCES"),
        (wire.XS_CONTROL, b"help\0", b"EACCES"),
        (wire.XS_RESUME, b"1\0", b"EACCES"),
        (wire.XS_SET_TARGET, b"1\x002\0", b"EACCES"),
        (wire.XS_IS_DOMAIN_INTRODUCED, b"1\0", b"EACCES"),
        (wire.XS_WATCH_EVENT, b"", b"ENOSYS"),
        (wire.XS_ERROR, b"", b"ENOSYS"),
        (20, b"", b"ENOSYS"),
        (23, b"", b"ENOSYS"),
        (0xFFFF, b"", b"ENOSYS"),
    ],
)
def test_what_a_guest_may_not_ask_is_refused_by_name(guest: Client, kind: int, payload: bytes, error: bytes) -> None:
    assert guest.ask(kind, payload, raw=True) == b"!" + error
    assert guest.read("domid") == b"1"


def test_an_unknown_transaction_is_enoent_but_watches_ignore_it(guest: Client) -> None:
    assert guest.read("domid", tx=77) == b"!ENOENT"
    assert guest.ask(wire.XS_WATCH, "data", "t", tx=77) == OK


def test_domain_0_may_ask_what_guests_may_not(store: Store, guest: Client) -> None:
    tool = Client(store.connect(0))
    assert tool.ask(wire.XS_IS_DOMAIN_INTRODUCED, "1") == b"T\0"
    assert tool.ask(wire.XS_IS_DOMAIN_INTRODUCED, "5") == b"F\0"
    assert tool.ask(wire.XS_GET_DOMAIN_PATH, "7") == b"/local/domain/7\0"
    assert tool.read("name") == b"Domain-0"
    assert tool.ask(wire.XS_DIRECTORY, "/local/domain") == b"0\x001\0"
    assert tool.ask(wire.XS_RM, "/") == b"!EINVAL"
    assert tool.write("/local/domain/1/big", b"x" * 4000) == OK


def test_mkdir_and_rm(guest: Client) -> None:
    assert guest.ask(wire.XS_MKDIR, "data/d/e") == OK
    assert guest.ask(wire.XS_MKDIR, "data/d") == OK
    assert guest.ask(wire.XS_DIRECTORY, "data") == b"d\0"
    assert guest.ask(wire.XS_RM, "data/d") == OK
    assert guest.ask(wire.XS_RM, "data/d") == OK
    assert guest.ask(wire.XS_RM, "data/d/e") == b"!ENOENT"
    assert guest.ask(wire.XS_DIRECTORY, "data") == b""


def test_permissions_open_and_close_a_node_to_others(store: Store, guest: Client) -> None:
    other = introduced(store, 2)
    guest.write("data/shared", "secret")
    path = "/local/domain/1/data/shared"
    assert other.read(path) == b"!EACCES"
    assert guest.ask(wire.XS_SET_PERMS, "data/shared", "n1", "r2") == OK
    assert (other.read(path), other.write(path, "x")) == (b"secret", b"!EACCES")
    assert guest.ask(wire.XS_SET_PERMS, "data/shared", "n1", "b2") == OK
    assert (other.write(path, "mine"), guest.read("data/shared")) == (OK, b"mine")
    assert other.ask(wire.XS_SET_PERMS, path, "n1") == b"!EACCES"
    assert other.write(path + "/below", "") == OK
    assert other.ask(wire.XS_GET_PERMS, path + "/below") == b"n2\0b2\0"


def test_a_long_directory_is_read_in_parts(store: Store) -> None:
    tool = Client(store.connect(0))
    names = [f"a-rather-long-child-name-{number:04d}" for number in range(300)]
    for name in names:
        store.write(f"/tool/{name}", "")
    assert tool.ask(wire.XS_DIRECTORY, "/tool") == b"!E2BIG"
    listing, generations = b"", set()
    while not listing.endswith(b"\0\0"):
        generation, _, part = tool.ask(wire.XS_DIRECTORY_PART, "/tool", str(len(listing))).partition(b"\0")
        generations.add(generation)
        listing += part
    assert listing[:-1].split(b"\0")[:-1] == [b"xenstored", *(name.encode() for name in names)]
    assert len(generations) == 1


class TestWatches:
    def test_a_watch_fires_once_at_its_start_and_then_on_changes_below(self, store: Store, guest: Client) -> None:
        assert guest.ask(wire.XS_WATCH, "control/shutdown", "tok") == OK
        assert guest.ask(wire.XS_WATCH, "/local/domain/1/control", "abs") == OK
        assert guest.heard() == [("control/shutdown", "tok"), ("/local/domain/1/control", "abs")]
        store.write("/local/domain/1/control/shutdown", "poweroff")
        assert guest.heard() == [("control/shutdown", "tok"), ("/local/domain/1/control/shutdown", "abs")]
        store.write("/local/domain/1/memory/target", "1")
        assert guest.heard() == []

    def test_the_first_event_follows_the_reply(self, guest: Client) -> None:
        guest.connection.feed(wire.message(wire.XS_WATCH, 1, 0, b"data\0t\0"))
        kinds = [message.kind for message in parse(guest.connection.take(4096))]
        assert kinds == [wire.XS_WATCH, wire.XS_WATCH_EVENT]

    def test_a_domain_hears_only_of_what_it_may_read(self, store: Store, guest: Client) -> None:
        other = introduced(store, 2)
        for path in ("/", "/local/domain/1", "@introduceDomain", "@releaseDomain"):
            assert other.ask(wire.XS_WATCH, path, "t") == OK
        other.heard()
        guest.write("data/x", "secret")
        introduced(store, 3)
        store.release(3)
        assert other.heard() == []
        guest.ask(wire.XS_SET_PERMS, "data/x", "n1", "r2")
        assert other.heard() == [("/local/domain/1/data/x", "t")]
        guest.ask(wire.XS_SET_PERMS, "data/x", "n1")
        assert other.heard() == [("/local/domain/1/data/x", "t")], "losing a node is heard"

    def test_removal_tells_watchers_below_their_own_path(self, store: Store, guest: Client) -> None:
        guest.write("data/a/b/c", "")
        for path in ("data/a/b", "data/a", "data"):
            guest.ask(wire.XS_WATCH, path, path)
        guest.heard()
        guest.ask(wire.XS_RM, "data/a")
        assert guest.heard() == [("data/a/b", "data/a/b"), ("data/a", "data/a"), ("data/a", "data")]

    def test_identical_events_wait_once(self, store: Store, guest: Client) -> None:
        guest.ask(wire.XS_WATCH, "control", "t")
        guest.heard()
        for number in range(1000):
            store.write("/local/domain/1/control/shutdown", str(number))
        assert guest.heard() == [("control/shutdown", "t")]

    def test_unwatch_reset_and_duplicates(self, store: Store, guest: Client) -> None:
        assert guest.ask(wire.XS_WATCH, "data", "t") == OK
        assert guest.ask(wire.XS_WATCH, "data", "t") == b"!EEXIST"
        assert guest.ask(wire.XS_WATCH, "data", "u") == OK
        assert guest.ask(wire.XS_UNWATCH, "data", "t") == OK
        guest.heard()
        guest.write("data", "1")
        assert guest.heard() == [("data", "u")]
        assert guest.ask(wire.XS_RESET_WATCHES, "") == OK
        guest.write("data", "2")
        assert guest.heard() == []
        assert guest.ask(wire.XS_WATCH, "data", "u") == OK

    def test_watches_are_bounded(self, guest: Client) -> None:
        for number in range(129):  # xenstored lets one more through than its quota says
            assert guest.ask(wire.XS_WATCH, "data", str(number)) == OK
        assert guest.ask(wire.XS_WATCH, "data", "one-more") == b"!E2BIG"

    def test_events_not_read_are_bounded_and_counted(self, store: Store, guest: Client) -> None:
        for number in range(128):
            guest.ask(wire.XS_WATCH, "data", f"{number:03d}" + "t" * 1000)
        guest.heard()
        writer = Client(store.connect(0))
        for number in range(10):
            writer.write(f"/local/domain/1/data/{number}", "")
        assert guest.connection.events_lost > 0
        assert len(guest.connection.take(1 << 24)) <= EVENT_BYTES_HELD
        assert guest.read("domid") == b"1"


def test_a_payload_too_long_breaks_the_connection_with_a_reason(store: Store, guest: Client) -> None:
    guest.connection.feed(wire.HEADER.pack(wire.XS_READ, 1, 0, 4097) + b"x" * 100)
    assert "4097" in guest.connection.broken
    assert guest.connection.room == 0
    guest.connection.feed(wire.message(wire.XS_READ, 1, 0, b"domid\0"))
    assert guest.connection.take(4096) == b""
    store.write("/local/domain/1/control/shutdown", "reboot")
    assert not guest.connection.pending


def test_a_client_that_does_not_read_is_not_served_on(guest: Client) -> None:
    request = wire.message(wire.XS_READ, 1, 0, b"domid\0")
    for _ in range(500):
        if guest.connection.room < len(request):
            break
        guest.connection.feed(request)
    else:
        pytest.fail("it took requests without end")
    assert guest.connection.room == 0
    first = guest.connection.take(1)
    assert len(first) == 1
    assert len(guest.connection.take(1 << 20)) > 0


_WORDS = (b"data", b"data/a", b"data/a/b", b"/", b"control", b"@releaseDomain", b"n1", b"r2", b"T", b"1", b"tok", b"")
requests = st.builds(
    wire.message,
    st.sampled_from([*range(24), 0xFFFF]),
    st.just(1),
    st.sampled_from([0, 0, 1, 2, 0xFFFFFFFF]),
    st.one_of(
        st.binary(max_size=40),
        st.lists(st.sampled_from(_WORDS), max_size=3).map(lambda parts: b"".join(part + b"\0" for part in parts)),
    ),
)
streams = st.one_of(st.binary(max_size=300), st.lists(requests, max_size=25).map(b"".join))


@settings(max_examples=150, deadline=None)
@given(stream=streams, cuts=st.lists(st.integers(1, 40), max_size=40))
def test_any_bytes_in_any_pieces_give_the_same_output(stream: bytes, cuts: list[int]) -> None:
    whole, pieces = introduced(Store(), 1).connection, introduced(Store(), 1).connection
    expected = b""
    for at in range(0, len(stream), 16):
        whole.feed(stream[at : at + 16])
        expected += whole.take(1 << 20)
    got, at = b"", 0
    for cut in [*cuts, len(stream)]:
        pieces.feed(stream[at : at + cut])
        at += cut
        got += pieces.take(7)
    while pieces.pending:
        got += pieces.take(1000)
    assert sorted(whole.save().watches) == sorted(pieces.save().watches)
    assert whole.broken == pieces.broken
    if not whole.broken:
        replies = [data for data in split(expected) if data[0] != wire.XS_WATCH_EVENT]
        assert [data for data in split(got) if data[0] != wire.XS_WATCH_EVENT] == replies  # events may coalesce
    assert len(pieces.save().received) <= INPUT_BYTES_HELD


def split(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    while data:
        length = wire.HEADER.size + int(wire.HEADER.unpack_from(data)[3])
        found.append(data[:length])
        data = data[length:]
    return found


@settings(max_examples=100, deadline=None)
@given(before=streams, after=streams, taken=st.integers(0, 200))
def test_a_saved_connection_goes_on_as_if_never_saved(before: bytes, after: bytes, taken: int) -> None:
    store = Store()
    connection = introduced(store, 1).connection
    connection.feed(before)
    connection.take(taken)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(connection.save()), type=ConnectionState)
    assert state == connection.save()
    nodes = store.save_domain(1)

    twin_store = Store()
    twin = introduced(twin_store, 1).connection
    twin_store.load_domain(1, nodes)
    twin.load(state)
    assert twin.save() == state
    assert twin_store.save_domain(1) == nodes
    if not state.transactions:  # those are restored without the right to commit
        outputs = []
        for one in (connection, twin):
            one.feed(after)
            outputs.append(one.take(1 << 20))
        assert outputs[0] == outputs[1]
        assert connection.save() == twin.save()
