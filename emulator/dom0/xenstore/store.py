"""The store of the host: one tree for all domains, its watches and quotas, and what Domain-0 does with it directly.

Every method is thread-safe under the one lock. Owners of connections that got an event from someone else are called after
the lock is dropped, so a callback may take its own locks and may call the store.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from emulator.dom0.xenstore import domains
from emulator.dom0.xenstore.server import Connection
from emulator.dom0.xenstore.transaction import QUOTA_TRANSACTION_NODES, Change, Transaction, apply, grants
from emulator.dom0.xenstore.tree import (
    OWNER,
    READ,
    WRITE,
    Node,
    Perm,
    Perms,
    Tree,
    access_of,
    find,
    nearest,
    parent_of,
    valid_path,
    walk,
)
from emulator.dom0.xenstore.watches import Watches
from emulator.dom0.xenstore.wire import RefusedError

QUOTA_NODES: Final = 1000
QUOTA_VALUE_BYTES: Final = 2048
QUOTA_TOTAL_BYTES: Final = 512 * 1024  # of values a domain owns; a transaction's copy counts by itself
QUOTA_PERMS: Final = 5
QUOTA_DEPTH: Final = 64  # ours: Xen bounds the length of a path only; see tree.py

INTRODUCE_EVENT: Final = "@introduceDomain"
RELEASE_EVENT: Final = "@releaseDomain"


class Store:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._ready: dict[Connection, None] = {}
        self._serial = 0
        self.tree = Tree(Node(b"", (Perm(0, 0),), 1, {}), 1)
        self.watches = Watches()
        self.connections: dict[int, Connection] = {}
        self.introduced: set[int] = set()
        self._special: dict[str, Perms] = {}
        for path, value in domains.DOM0_NODES.items():
            self.write(path, value)

    # --- for Domain-0's tools

    def introduce(self, domid: int, name: str, *, nodes: Mapping[str, str]) -> None:
        """Makes a domain's nodes as libxl does: `nodes` under /local/domain/N and what belongs to them under /vm, /libxl and
        the console's backend. Whatever an earlier domain of that number left is gone. Fires @introduceDomain."""
        with self.changing():
            self._forget(domid)
            for change in domains.domain_nodes(domid, name, nodes):
                self._put(change)
            self.introduced.add(domid)
            self._fire(INTRODUCE_EVENT, exact=True, grants=())

    def release(self, domid: int) -> None:
        """The domain is gone: its connection is closed, its nodes and those it owned elsewhere removed; @releaseDomain."""
        with self.changing():
            for connection in [one for one in self.connections.values() if one.domid == domid]:
                connection.close()
            self._forget(domid)
            self.introduced.discard(domid)
            self._fire(RELEASE_EVENT, exact=True, grants=())

    def shut_down(self, domid: int) -> None:
        """The domain shut down or crashed but is still there: watchers of @releaseDomain hear of that too."""
        with self.changing():
            if domid in self.introduced:
                self._fire(RELEASE_EVENT, exact=True, grants=())

    def connect(self, domid: int) -> Connection:
        """A new connection. A guest has one, for its ring; Domain-0 may have many."""
        with self.changing():
            if domid and any(one.domid == domid for one in self.connections.values()):
                raise ValueError(f"domain {domid} is connected to xenstore already")
            self._serial += 1
            connection = Connection(self, domid, self._serial)
            self.connections[connection.serial] = connection
            return connection

    def write(self, path: str, value: str | bytes) -> None:
        """Writes as Domain-0, making what is missing; ValueError for a malformed path."""
        data = value.encode() if isinstance(value, str) else value
        with self.changing():
            try:
                self.write_node(0, path, data, None)
            except RefusedError as refused:
                raise ValueError(f"xenstore path {path!r}: {refused.name}") from refused

    def remove(self, path: str) -> bool:
        """Removes a node and all below it as Domain-0; whether it was there."""
        with self.changing():
            if path == "/" or self.tree.get(path) is None:
                return False
            self.remove_node(0, path, None)
            return True

    def read(self, path: str) -> str | None:
        """A value as text (undecodable bytes shown as \\xNN), None where there is no such node."""
        data = self.read_bytes(path)
        return None if data is None else data.decode("utf-8", "backslashreplace")

    def read_bytes(self, path: str) -> bytes | None:
        node = find(self.snapshot(), path) if valid_path(path) else None
        return None if node is None else node.value

    def directory(self, path: str) -> tuple[str, ...]:
        node = find(self.snapshot(), path) if valid_path(path) else None
        return () if node is None else tuple(node.children)

    def subtree(self, path: str, most: int = 0) -> tuple[tuple[str, str], ...]:
        """(absolute path, value as text) of a node and all below it, parents first, the first `most` if that is given; empty where
        there is no such node."""
        node = find(self.snapshot(), path) if valid_path(path) else None
        found = walk(path, node, most) if node is not None else []
        return tuple((at, one.value.decode("utf-8", "backslashreplace")) for at, one in found)

    def permissions(self, path: str) -> Perms:
        node = find(self.snapshot(), path) if valid_path(path) else None
        return () if node is None else node.perms

    def set_permissions(self, path: str, perms: Perms) -> None:
        """Sets a node's permissions as Domain-0, or who may hear @introduceDomain or @releaseDomain."""
        with self.changing():
            try:
                self.set_perms(0, path, perms, None)
            except RefusedError as refused:
                raise ValueError(f"xenstore path {path!r}: {refused.name}") from refused

    def snapshot(self) -> Node:
        """The root as it is now; it never changes."""
        with self._lock:
            return self.tree.root

    def save_domain(self, domid: int) -> tuple[Change, ...]:
        """All nodes of a domain as plain values, for a snapshot."""
        root = self.snapshot()
        found: list[Change] = []
        for path in domains.roots(domid, root):
            node = find(root, path)
            if node is not None:
                found.extend(Change(at, one.value, one.perms) for at, one in walk(path, node))
        return tuple(found)

    def load_domain(self, domid: int, saved: tuple[Change, ...]) -> None:
        """Brings a domain's nodes back to what was saved, order of children included; only what differs fires watches. Load
        the domain's connection after this, so that the events this queues there are replaced by those of the snapshot."""
        with self.changing():
            base = self.tree.root
            before = {change.path: change for change in self.save_domain(domid)}
            after = {change.path: change for change in saved}
            tops = [path for path in after if parent_of(path) not in after]
            for path in domains.roots(domid, base):
                if path not in after and self.tree.get(path) is not None:
                    self.tree.remove(path)
            for top in tops:
                self.make_node(0, top, None)
                inside = [one for one in saved if one.path == top or one.path.startswith(f"{top}/")]
                self.tree.graft(top, [(one.path, one.value or b"", one.perms) for one in inside])
            for path in before | after:
                if before.get(path) != after.get(path):
                    exact = path not in after and parent_of(path) in before and parent_of(path) not in after
                    self._fire(path, exact=exact, grants=grants(base, self.tree.root, path))

    # --- for connections, under the lock: `who` is the asking domain; RefusedError carries the answer

    @contextmanager
    def changing(self, actor: Connection | None = None) -> Iterator[None]:
        """Holds the lock; owners of connections with new events, other than the actor's, are called when it is dropped."""
        ready: tuple[Connection, ...] = ()
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    ready = tuple(one for one in self._ready if one is not actor)
                    self._ready.clear()
        for connection in ready:
            if connection.on_output is not None:
                connection.on_output()

    def announce(self, connection: Connection) -> None:
        self._ready[connection] = None

    def lookup(self, who: int, path: str, need: int, tx: Transaction | None) -> Node:
        """The node, or EINVAL, ENOENT, EACCES; no error tells of a node that may not be seen (errno_from_parents)."""
        if not valid_path(path):
            raise RefusedError("EINVAL")
        tree = tx.tree if tx else self.tree
        node = tree.get(path)
        if tx:
            self._touch(who, tx, path)
        if node is None:
            above, parent = nearest(tree.root, path)
            if tx:
                self._touch(who, tx, above)
            raise RefusedError("ENOENT" if access_of(who, parent.perms) & need else "EACCES")
        if access_of(who, node.perms) & need != need:
            raise RefusedError("EACCES")
        return node

    def write_node(self, who: int, path: str, value: bytes, tx: Transaction | None) -> None:
        if who and len(value) > QUOTA_VALUE_BYTES:
            raise RefusedError("ENOSPC")
        try:
            node = self.lookup(who, path, WRITE, tx)
        except RefusedError as refused:
            if refused.name != "ENOENT":
                raise
            self._create(who, path, value, tx)
            return
        tree = tx.tree if tx else self.tree
        self._check_bytes(who, tree, len(value) - (len(node.value) if node.perms[0].domid == who else 0))
        tree.change(path, value, node.perms)
        self._changed(path, tx)

    def make_node(self, who: int, path: str, tx: Transaction | None) -> None:
        try:
            self.lookup(who, path, WRITE, tx)
        except RefusedError as refused:
            if refused.name != "ENOENT":
                raise
            self._create(who, path, b"", tx)

    def remove_node(self, who: int, path: str, tx: Transaction | None) -> None:
        tree = tx.tree if tx else self.tree
        try:
            node = self.lookup(who, path, WRITE, tx)
        except RefusedError as refused:
            if refused.name == "ENOENT" and tree.get(parent_of(path)) is not None:
                return
            raise
        if path == "/":
            raise RefusedError("EINVAL")
        gone = walk(path, node)
        parent = parent_of(path)
        if tx:
            self._touch(who, tx, parent)
            for at, _ in gone:
                self._touch(who, tx, at)
                tx.note_modified(at)
                tx.event(at, exact=at != path)
            tx.note_modified(parent)
            tree.remove(path)
            return
        root = tree.root
        tree.remove(path)
        for at, one in reversed(gone):  # whoever watches below hears before whoever watches above
            above = find(root, parent_of(at))
            self._fire(at, exact=at != path, grants=(one.perms, above.perms) if above else (one.perms,))

    def set_perms(self, who: int, path: str, perms: Perms, tx: Transaction | None) -> None:
        if who and len(perms) > QUOTA_PERMS:
            raise RefusedError("ENOSPC")
        if path.startswith("@"):
            if path not in (INTRODUCE_EVENT, RELEASE_EVENT):
                raise RefusedError("EINVAL")
            if who:
                raise RefusedError("EACCES")
            self._special[path] = perms
            return
        node = self.lookup(who, path, WRITE | OWNER, tx)
        if who and perms[0].domid != node.perms[0].domid:
            raise RefusedError("EPERM")
        base = self.tree.root
        (tx.tree if tx else self.tree).change(path, node.value, perms)
        self._changed(path, tx, base)

    def commit(self, who: int, tx: Transaction) -> None:
        """Takes a transaction over, or ENOMEM (a request in it failed), ENOSPC (quota), EAGAIN (conflict)."""
        if tx.failed:
            raise RefusedError("ENOMEM")
        if who:
            nodes, held = tx.growth(who)
            if nodes > 0 and self.tree.owned.get(who, 0) + nodes > QUOTA_NODES:
                raise RefusedError("ENOSPC")
            self._check_bytes(who, self.tree, held)
        if tx.conflicts(self.tree):
            raise RefusedError("EAGAIN")
        apply(tx.changes(), self.tree)
        for path, exact in tx.events.items():
            self._fire(path, exact=exact, grants=grants(tx.base, self.tree.root, path))

    # --- inside

    def _create(self, who: int, path: str, value: bytes, tx: Transaction | None) -> None:
        tree = tx.tree if tx else self.tree
        above, parent = nearest(tree.root, path)
        levels = path.count("/") - (0 if above == "/" else above.count("/"))
        if who and (tree.owned.get(who, 0) + levels > QUOTA_NODES or path.count("/") > QUOTA_DEPTH):
            raise RefusedError("ENOSPC")
        self._check_bytes(who, tree, len(value))
        perms = (Perm(who, parent.perms[0].access), *parent.perms[1:]) if who else parent.perms
        made = tree.create(path, value, perms)
        if tx:
            for at in (above, *made):
                self._touch(who, tx, at)
                tx.note_modified(at)
        self._changed(path, tx)

    def _check_bytes(self, who: int, tree: Tree, more: int) -> None:
        if who and more > 0 and tree.held.get(who, 0) + more > QUOTA_TOTAL_BYTES:
            raise RefusedError("ENOSPC")

    def _changed(self, path: str, tx: Transaction | None, base: Node | None = None) -> None:
        if tx:
            tx.note_modified(path)
            tx.event(path, exact=False)
        else:
            self._fire(path, exact=False, grants=grants(base, self.tree.root, path))

    def _touch(self, who: int, tx: Transaction, path: str) -> None:
        if who and path not in tx.seen and len(tx.seen) >= QUOTA_TRANSACTION_NODES:
            tx.failed = True
            raise RefusedError("ENOSPC")
        tx.note(path)

    def _fire(self, path: str, *, exact: bool, grants: tuple[Perms, ...]) -> None:
        for watch in self.watches.match(path, exact):
            who = watch.connection.domid
            allowed = grants if not path.startswith("@") else (self._special.get(path, (Perm(0, 0),)),)
            if any(access_of(who, perms) & READ for perms in allowed):
                watch.connection.queue_event(watch, path)

    def _put(self, change: Change) -> None:
        if change.value is None:
            raise ValueError(f"{change.path}: no value")
        base = self.tree.root
        if self.tree.get(change.path) is None:
            self.make_node(0, parent_of(change.path), None)  # missing directories inherit; they don't get the node's permissions
            self.tree.create(change.path, change.value, change.perms)
        else:
            self.tree.change(change.path, change.value, change.perms)
        self._fire(change.path, exact=False, grants=grants(base, self.tree.root, change.path))

    def _forget(self, domid: int) -> None:
        """Removes a domain's nodes, those it owns elsewhere, and every permission entry that names it."""
        for path in domains.roots(domid, self.tree.root):
            if self.tree.get(path) is not None:
                self.remove_node(0, path, None)
        if not self.tree.owned.get(domid) and not self.tree.mentioned.get(domid):
            return
        for path, node in walk("/", self.tree.root):
            if path != "/" and self.tree.get(path) is not None:
                if node.perms[0].domid == domid:
                    self.remove_node(0, path, None)
                elif any(perm.domid == domid for perm in node.perms):
                    kept = tuple(perm for perm in node.perms if perm.domid != domid)
                    self.tree.change(path, node.value, kept)
