"""The store itself: Domain-0's side, quotas, transactions, a domain's birth and end, and what it saves."""

from __future__ import annotations

import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.xenstore import Change, Connection, Perm, Store, wire
from emulator.dom0.xenstore.tree import Node, Tree, find, walk
from tests.patience import PATIENCE_SECONDS
from tests.unit.xenstore_client import Client, introduced, nodes

OK = b"OK\0"
HOME = "/local/domain/1"


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_new_domain_looks_as_libxl_makes_it(store: Store) -> None:
    store.introduce(1, "one", nodes=nodes(1, "one"))
    owned = {path.removeprefix(HOME + "/") for path, _ in store.subtree(HOME) if store.permissions(path)[0].domid == 1}
    assert owned == {
        "device/suspend/event-channel",
        "control/shutdown",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "control/sysrq",
        "data",
        "drivers",
        "feature",
        "attr",
        "error",
        "console/backend-id",
    }
    assert store.permissions(HOME) == (Perm(0, 0), Perm(1, 1))
    assert store.read(f"{HOME}/control/platform-feature-xs_reset_watches") == "1"
    assert store.read(f"{HOME}/memory/target") == "65536"
    assert store.read(f"{HOME}/memory/static-max") == "131072"
    vm = store.read(f"{HOME}/vm")
    assert vm is not None
    assert store.read(f"{vm}/name") == "one"
    assert store.read("/libxl/1/type") == "pv"
    assert store.read(f"{store.read(f'{HOME}/console/backend')}/frontend") == f"{HOME}/console"
    assert store.permissions("/local/domain/0/backend/console") == (Perm(0, 0),)


def test_a_released_domain_leaves_nothing(store: Store) -> None:
    empty = store.subtree("/")
    guest = introduced(store, 1)
    store.write("/tool/open", "")
    store.set_permissions("/tool/open", (Perm(0, 0), Perm(1, 3)))
    guest.write("/tool/open/mine", "x")
    guest.write("data/x", "y")
    store.release(1)
    assert guest.connection.broken == "closed"
    store.remove("/tool/open")
    left = {path for path, _ in store.subtree("/")} - {path for path, _ in empty}
    assert left == {"/local/domain/0/backend/console"}
    assert not store.tree.owned.get(1) and not store.tree.mentioned.get(1) and not store.tree.held.get(1)


def test_a_reused_number_inherits_no_permission(store: Store) -> None:
    introduced(store, 1)
    store.write("/tool/private", "x")
    store.set_permissions("/tool/private", (Perm(0, 0), Perm(1, 1)))
    store.release(1)
    assert introduced(store, 1).read("/tool/private") == b"!EACCES"


def test_a_guest_has_one_connection(store: Store) -> None:
    introduced(store, 1)
    with pytest.raises(ValueError, match="connected"):
        store.connect(1)


def test_domain_0_writes_are_checked_as_paths(store: Store) -> None:
    for path in ("relative", "/a//b", "/a b", "@introduceDomain", ""):
        with pytest.raises(ValueError, match="EINVAL"):
            store.write(path, "x")
    assert store.read("/a//b") is None
    assert store.subtree("/nothing") == ()
    store.write("/tool/bytes", b"\xff\x00")
    assert store.read("/tool/bytes") == "\\xff\x00"
    assert store.read_bytes("/tool/bytes") == b"\xff\x00"


def test_owners_are_called_for_others_events_and_without_the_lock(store: Store) -> None:
    guest = introduced(store, 1)
    guest.ask(wire.XS_WATCH, "data", "t")
    guest.ask(wire.XS_WATCH, "control", "t")
    guest.heard()
    calls: list[bool] = []

    def called() -> None:
        answered: list[str | None] = []
        other = threading.Thread(target=lambda: answered.append(store.read(f"{HOME}/domid")))
        other.start()
        other.join(PATIENCE_SECONDS)
        calls.append(answered == ["1"])

    guest.connection.on_output = called
    guest.write("data/own", "x")
    assert calls == [], "its own request needs no call: the owner takes the output anyway"
    store.write(f"{HOME}/control/shutdown", "poweroff")
    assert calls == [True]


class TestQuotas:
    def test_nodes(self, store: Store) -> None:
        guest = introduced(store, 1)
        owned = store.tree.owned[1]
        assert all(guest.ask(wire.XS_MKDIR, f"data/{number}") == OK for number in range(4))
        for number in range(1000 - owned - 4):
            assert guest.write(f"data/{number % 4}/{number}", "") == OK
        assert guest.write("data/more", "") == b"!ENOSPC"
        assert guest.write("data/1/1", "still") == OK
        assert guest.ask(wire.XS_RM, "data/2/2") == OK
        assert guest.write("data/more/two", "") == b"!ENOSPC"
        assert guest.write("data/more", "") == OK
        store.write(f"{HOME}/data/by-dom0", "unbounded")

    def test_value_and_total_size(self, store: Store) -> None:
        guest = introduced(store, 1)
        most = 2048 - 20 - 8 - 1  # a header and one permission
        assert guest.write("data/v", "x" * (most + 1)) == b"!ENOSPC"
        written = 0
        while guest.write(f"data/{written}", "x" * most) == OK:
            written += 1
        assert 250 <= written <= 260
        assert guest.write("data/0", "y" * most) == OK, "replacing takes no more"

    def test_the_names_of_its_children_count_as_a_nodes_size(self, store: Store) -> None:
        guest = introduced(store, 1)
        made = 0
        while guest.write(f"data/{made:099d}", "") == OK:
            made += 1
        assert made == (2048 - 20 - 8 - 1) // 100
        assert guest.write("data/" + "0" * 99, "small") == OK
        assert guest.write("data", "x" * 60) == b"!ENOSPC"
        assert guest.ask(wire.XS_SET_PERMS, "data", "n1", "r2", "r3", "r4", "r5") == b"!ENOSPC"
        store.write(f"{HOME}/data/by-dom0", "unbounded")

    def test_depth(self, store: Store) -> None:
        guest = introduced(store, 1)
        assert guest.write("data" + "/d" * 60, "") == OK
        assert guest.write("data" + "/e" * 900, "") == b"!ENOSPC"
        assert guest.read("data" + "/e" * 900) == b"!ENOENT"

    def test_transactions(self, store: Store) -> None:
        guest = introduced(store, 1)
        started = [guest.begin() for _ in range(11)]  # one more than the quota, as in xenstored
        assert guest.ask(wire.XS_TRANSACTION_START, "") == b"!ENOSPC"
        assert guest.end(started[3], commit=False) == OK
        assert guest.begin() not in started

    def test_nodes_over_several_transactions(self, store: Store) -> None:
        guest = introduced(store, 1)
        open_ones = [guest.begin() for _ in range(2)]
        for tx in open_ones:
            for number in range(600):
                assert guest.write(f"data/{number % 3}/{number}", "x", tx=tx) == OK
                if tx == open_ones[0] and number == 0:
                    assert guest.ask(wire.XS_MKDIR, f"attr/{tx}", tx=tx) == OK
        results = {guest.end(tx) for tx in open_ones}
        assert results <= {OK, b"!EAGAIN", b"!ENOSPC"} and store.tree.owned[1] <= 1000

    def test_a_transaction_that_touches_too_much_fails(self, store: Store) -> None:
        guest = introduced(store, 1)
        tx = guest.begin()
        answers = {guest.read(f"data/{number}", tx=tx) for number in range(1100)}
        assert answers == {b"!ENOENT", b"!ENOSPC"}
        assert guest.end(tx) == b"!ENOMEM"


class TestTransactions:
    def test_changes_are_seen_inside_and_after_commit_only(self, store: Store) -> None:
        guest = introduced(store, 1)
        tx = guest.begin()
        assert guest.write("data/a", "1", tx=tx) == OK
        assert (guest.read("data/a", tx=tx), guest.read("data/a")) == (b"1", b"!ENOENT")
        assert guest.end(tx) == OK
        assert guest.read("data/a") == b"1"
        assert guest.read("data/a", tx=tx) == b"!ENOENT"
        tx = guest.begin()
        guest.ask(wire.XS_RM, "data/a", tx=tx)
        assert guest.end(tx, commit=False) == OK
        assert guest.read("data/a") == b"1"

    def test_no_nesting(self, store: Store) -> None:
        guest = introduced(store, 1)
        assert guest.ask(wire.XS_TRANSACTION_START, "", tx=guest.begin()) == b"!EBUSY"

    @pytest.mark.parametrize("touch", ["read", "absent", "directory", "removed", "created"])
    def test_a_change_of_what_was_looked_at_is_a_conflict(self, store: Store, touch: str) -> None:
        guest = introduced(store, 1)
        guest.write("data/d/x", "1")
        tx = guest.begin()
        match touch:
            case "read":
                guest.read("data/d/x", tx=tx)
                store.write(f"{HOME}/data/d/x", "2")
            case "absent":
                guest.read("data/d/y", tx=tx)
                store.write(f"{HOME}/data/d/y", "2")
            case "directory":
                guest.ask(wire.XS_DIRECTORY, "data/d", tx=tx)
                store.write(f"{HOME}/data/d/y", "2")
            case "removed":
                guest.ask(wire.XS_RM, "data/d", tx=tx)
                store.write(f"{HOME}/data/d/x/deep", "2")
            case _:
                guest.write("data/d/new", "mine", tx=tx)
                store.write(f"{HOME}/data/d/new", "theirs")
        guest.write("data/mark", "x", tx=tx)
        assert guest.end(tx) == b"!EAGAIN"
        assert guest.read("data/mark") == b"!ENOENT"

    def test_changes_elsewhere_are_no_conflict(self, store: Store) -> None:
        guest, other = introduced(store, 1), introduced(store, 2)
        tx, its = guest.begin(), other.begin()
        guest.write("data/a", "1", tx=tx)
        other.write("data/a", "2", tx=its)
        guest.write("attr/unrelated", "x")
        assert (guest.end(tx), other.end(its)) == (OK, OK)
        assert (guest.read("data/a"), other.read("data/a")) == (b"1", b"2")

    def test_reads_see_the_store_as_it_was_at_the_start(self, store: Store) -> None:
        guest = introduced(store, 1)
        guest.write("data/a", "1")
        tx = guest.begin()
        guest.write("data/a", "2")
        assert guest.read("data/a", tx=tx) == b"1"
        assert guest.end(tx) == b"!EAGAIN"

    def test_events_fire_at_commit_once_each(self, store: Store) -> None:
        guest = introduced(store, 1)
        tool = Client(store.connect(0))
        tool.ask(wire.XS_WATCH, f"{HOME}/data", "t")
        tool.heard()
        guest.write("data/gone", "")
        tool.heard()
        tx = guest.begin()
        guest.write("data/a", "1", tx=tx)
        guest.write("data/a", "2", tx=tx)
        guest.ask(wire.XS_RM, "data/gone", tx=tx)
        assert tool.heard() == []
        guest.end(tx)
        assert tool.heard() == [(f"{HOME}/data/a", "t"), (f"{HOME}/data/gone", "t")]

    def test_a_restored_transaction_reads_its_writes_but_must_be_tried_again(self, store: Store) -> None:
        guest = introduced(store, 1)
        tx = guest.begin()
        guest.write("data/a", "1", tx=tx)
        guest.connection.load(guest.connection.save())
        assert guest.read("data/a", tx=tx) == b"1"
        assert guest.end(tx) == b"!EAGAIN"
        tx = guest.begin()
        guest.write("data/a", "1", tx=tx)
        assert guest.end(tx) == OK


def test_a_domain_put_back_is_as_it_was_and_watchers_hear_what_differs(store: Store) -> None:
    guest = introduced(store, 1)
    for name in "abc":
        guest.write(f"data/{name}", name)
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(store.save_domain(1)), type=tuple[Change, ...])
    before = store.subtree("/")
    guest.ask(wire.XS_RM, "data/a")
    guest.write("data/b", "changed")
    guest.write("data/new/below", "x")
    guest.ask(wire.XS_SET_PERMS, "data/c", "n1", "r2")
    tool = Client(store.connect(0))
    tool.ask(wire.XS_WATCH, "/local/domain", "t")
    tool.heard()
    store.load_domain(1, saved)
    assert store.subtree("/") == before
    assert store.save_domain(1) == saved
    assert {path for path, _ in tool.heard()} == {f"{HOME}/data/{name}" for name in ("a", "b", "c", "new")}
    accounts(store)


def accounts(store: Store) -> None:
    """The quota accounts equal a count of the tree."""
    owned: dict[int, int] = {}
    held: dict[int, int] = {}
    for _, node in walk("/", store.snapshot()):
        owner = node.perms[0].domid
        owned[owner] = owned.get(owner, 0) + 1
        held[owner] = held.get(owner, 0) + len(node.value)
    for domid in (1, 2):
        assert store.tree.owned.get(domid, 0) == owned.get(domid, 0)
        assert store.tree.held.get(domid, 0) == held.get(domid, 0)


_PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda names: "data/" + "/".join(names))
_NAMES = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), _PATHS, st.binary(max_size=4)),
        st.tuples(st.just("rm"), st.integers(0, 2), _PATHS, st.just(b"")),
        st.tuples(st.just("read"), st.integers(0, 2), _PATHS, st.just(b"")),
        st.tuples(st.just("begin"), st.integers(1, 2), st.just(""), st.just(b"")),
        st.tuples(st.just("end"), st.integers(1, 2), st.just(""), st.just(b"")),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=_STEPS)
def test_committed_transactions_are_serializable(steps: list[tuple[str, int, str, bytes]]) -> None:
    """Transactions that commit leave the store as if each had run whole at its end; so do lone requests."""
    store, model = Store(), Store()
    guest, serial = introduced(store, 1), introduced(model, 1)
    running: dict[int, tuple[int, list[tuple[str, str, bytes, bytes]]]] = {}
    for verb, slot, path, value in steps:
        if verb == "begin":
            running.setdefault(slot, (guest.begin(), []))
        elif verb == "end":
            if slot in running:
                tx, log = running.pop(slot)
                if guest.end(tx) == OK:
                    for one in log:
                        assert act(serial, *one[:3]) == one[3]
        else:
            tx, log = running.get(slot, (0, []))
            answer = act(guest, verb, path, value, tx)
            if tx:
                log.append((verb, path, value, answer))
            else:
                assert act(serial, verb, path, value) == answer
    assert dict(store.subtree("/")) == dict(model.subtree("/"))
    accounts(store)


def act(client: Client, verb: str, path: str, value: bytes, tx: int = 0) -> bytes:
    if verb == "write":
        return client.write(path, value, tx=tx)
    return client.ask(wire.XS_RM if verb == "rm" else wire.XS_READ, path, tx=tx)


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from("ab"), min_size=1, max_size=4), st.binary(max_size=2)), max_size=30
    )
)
def test_a_snapshot_never_changes(steps: list[tuple[bool, list[str], bytes]]) -> None:
    tree = Tree(Node(b"", (Perm(0, 0),), 1, {}), 1)
    model: dict[str, bytes] = {"/": b""}
    taken: list[tuple[Node, dict[str, bytes]]] = []
    for write, names, value in steps:
        path = "/" + "/".join(names)
        if write and path in model:
            tree.change(path, value, (Perm(0, 0),))
            model = {**model, path: value}
        elif write:
            made = tree.create(path, value, (Perm(0, 0),))
            assert set(made).isdisjoint(model)
            model = {**model, **dict.fromkeys(made, b""), path: value}
        elif path in model:
            tree.remove(path)
            model = {at: kept for at, kept in model.items() if at != path and not at.startswith(f"{path}/")}
        taken.append((tree.root, model))
    for root, then in taken:
        assert {path: node.value for path, node in walk("/", root)} == then
        assert all(find(root, path) is not None for path in then)


def test_an_owner_may_leave_while_it_is_about_to_be_called(store: Store) -> None:
    connection = store.connect(0)
    looks = iter([lambda: None, None])  # what it is at the first look, and from then on

    class Leaving(Connection):
        on_output = property(lambda _self: next(looks))

    connection.feed(wire.message(wire.XS_WATCH, 0, 0, b"/tool\0t\0"))
    connection.take(4096)
    connection.__class__ = Leaving
    store.write("/tool/a", "b")
    assert b"/tool/a" in connection.take(4096) and next(looks) is None
