"""The store of the host: one tree for all domains, its watches and quotas, and what Domain-0 does with it directly.

Every method is thread-safe under the one lock. Owners of connections that got an event from someone else are called after
the lock is dropped, so a callback may take its own locks and may call the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from emulator.dom0.xenstore import domains
from emulator.dom0.xenstore.quotas import NODE_HEADER_BYTES, PERM_BYTES, ClientBounds, Quotas
from emulator.dom0.xenstore.reader import StoreReader
from emulator.dom0.xenstore.server import Connection
from emulator.dom0.xenstore.transaction import Change, Transaction, apply, grants, grants_gone
from emulator.dom0.xenstore.tree import OWNER, READ, WRITE, Node, Perm, Perms, Tree, access_of, nearest, parent_of, valid_path, walk
from emulator.dom0.xenstore.watches import Watches
from emulator.dom0.xenstore.wire import RefusedError

QUOTA_DEPTH: Final = 64  # ours: Xen bounds the length of a path only; see tree.py

INTRODUCE_EVENT: Final = "@introduceDomain"
RELEASE_EVENT: Final = "@releaseDomain"


class Store(StoreReader):
    def __init__(self) -> None:
        super().__init__(Tree(Node(b"", (Perm(0, 0),), 1, {}), 1))
        self._depth = 0
        self._ready: dict[Connection, None] = {}
        self._serial = 0
        self.watches = Watches()
        self.connections: dict[int, Connection] = {}
        self._rings: dict[int, Connection] = {}
        self.introduced: set[int] = set()
        self.exists: Callable[[int], bool] = lambda domid: self.ring_of(domid) is not None  # to the hypervisor, introduced or not
        self.targets: dict[int, int] = {}  # XS_SET_TARGET: domain -> the one whose rights it has too
        self.quotas = Quotas()
        self.tracing = False  # every request goes to `log`
        self.log: Callable[[str], None] = lambda text: None
        self._shut: set[int] = set()  # domains whose shutdown was told
        self._special: dict[str, Perms] = {}
        for path, value in domains.DOM0_NODES.items():
            self.write(path, value)

    # --- for Domain-0's tools

    def introduce(self, domid: int, name: str, *, nodes: Mapping[str, str]) -> None:
        """Makes a domain's nodes as libxl does: `nodes` under /local/domain/N and what belongs to them under /vm, /libxl and
        the console's backend. Whatever an earlier domain of that number left is gone. Fires @introduceDomain."""
        with self.changing():
            self._forget(domid)
            made = domains.domain_nodes(domid, name, nodes)
            for top in domains.tops(made):
                if self.tree.get(top) is not None:
                    self.remove_node(0, top, None)
                self.make_node(0, parent_of(top), None)  # missing directories inherit; they don't get the node's permissions
                self._graft(top, made)
            for change in made:
                self._fire(change.path, exact=False, grants=partial(grants, None, self.tree.root, change.path))
            self.introduced.add(domid)
            self._fire(INTRODUCE_EVENT, exact=True)

    def release(self, domid: int) -> None:
        """The domain is gone: its connection is closed, its nodes and those it owned elsewhere removed; @releaseDomain."""
        with self.changing():
            if (connection := self.ring_of(domid)) is not None:
                connection.close()
            self._forget(domid)
            if domid in self.introduced:
                self._gone(domid)

    def let_go(self, domid: int) -> None:
        """XS_RELEASE: the domain's ring is served no more, what it owns is removed; its directories stay, the toolstack's to remove."""
        with self.changing():
            connection = self.ring_of(domid)
            if connection is not None:
                connection.reset()
                connection.released = True
            self._forget_owned(domid)
            self._gone(domid)

    def reintroduce(self, domid: int) -> bool:
        """XS_INTRODUCE of a domain that the toolstack made: its ring starts anew. False when there is no such domain."""
        with self.changing():
            connection = self.ring_of(domid)
            if connection is None or not self.exists(domid):
                return False
            connection.reset()
            connection.released = False
            if domid not in self.introduced:
                self.introduced.add(domid)
                self._fire(INTRODUCE_EVENT, exact=True)
            self.announce(connection)
            return True

    def shut_down(self, domid: int) -> None:
        """The domain shut down or crashed but is still there: watchers of @releaseDomain hear of that too, once (domain_cleanup)."""
        with self.changing():
            if domid in self.introduced and domid not in self._shut:
                self._shut.add(domid)
                self._fire(RELEASE_EVENT, exact=True)

    def restored(self, domid: int) -> None:
        """It is back at a moment of its past, its connection's state loaded: alive, and introduced as it was then."""
        with self.changing():
            self._shut.discard(domid)
            ring = self.ring_of(domid)
            (self.introduced.discard if ring is None or ring.released else self.introduced.add)(domid)

    def resumed(self, domid: int) -> None:
        """It goes on after its shutdown."""
        self._shut.discard(domid)

    def connect(self, domid: int, bounds: ClientBounds | None = None) -> Connection:
        """A new connection. A guest has one, for its ring; Domain-0 may have many."""
        with self.changing():
            if domid and self.ring_of(domid) is not None:
                raise ValueError(f"domain {domid} is connected to xenstore already")
            self._serial += 1
            connection = Connection(self, domid, self._serial, bounds)
            self.connections[connection.serial] = connection
            if domid:
                self._rings[domid] = connection
            return connection

    def disconnected(self, connection: Connection) -> None:
        self.connections.pop(connection.serial, None)
        if self._rings.get(connection.domid) is connection:
            del self._rings[connection.domid]

    def ring_of(self, domid: int) -> Connection | None:
        """A guest's connection."""
        return self._rings.get(domid)

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

    def set_permissions(self, path: str, perms: Perms) -> None:
        """Sets a node's permissions as Domain-0, or who may hear @introduceDomain or @releaseDomain."""
        with self.changing():
            try:
                self.set_perms(0, path, perms, None)
            except RefusedError as refused:
                raise ValueError(f"xenstore path {path!r}: {refused.name}") from refused

    def load_domain(self, domid: int, saved: tuple[Change, ...]) -> None:
        """Brings a domain's nodes back to what was saved, order of children included; only what differs fires watches. Load
        the domain's connection after this, so that the events this queues there are replaced by those of the snapshot."""
        with self.changing():
            base = self.tree.root
            before = {change.path: change for change in self.save_domain(domid)}
            after = {change.path: change for change in saved}
            for path in domains.roots(domid, base):
                if path not in after and self.tree.get(path) is not None:
                    self.tree.remove(path)
            for top in domains.tops(saved):
                self.make_node(0, top, None)
                self._graft(top, saved)
            for path in before | after:
                if before.get(path) != after.get(path):
                    exact = path not in after and parent_of(path) in before and parent_of(path) not in after
                    self._fire(path, exact=exact, grants=partial(grants, base, self.tree.root, path))

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
            hear = connection.on_output
            if hear is not None:  # else its owner has left meanwhile
                hear()

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
            raise RefusedError("ENOENT" if self._access(who, parent.perms) & need else "EACCES")
        if self._access(who, node.perms) & need != need:
            raise RefusedError("EACCES")
        return node

    def write_node(self, who: int, path: str, value: bytes, tx: Transaction | None) -> None:
        try:
            node = self.lookup(who, path, WRITE, tx)
        except RefusedError as refused:
            if refused.name != "ENOENT":
                raise
            self._create(who, path, value, tx)
            return
        tree = tx.tree if tx else self.tree
        self._check_size(who, len(value), node.perms, node)
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
        for at, _ in reversed(gone):  # whoever watches below hears before whoever watches above
            self._fire(at, exact=at != path, grants=partial(grants_gone, root, at))

    def set_perms(self, who: int, path: str, perms: Perms, tx: Transaction | None) -> None:
        if who and len(perms) > self.quotas.permissions:
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
        self._check_size(who, len(node.value), perms, node)
        base = self.tree.root
        (tx.tree if tx else self.tree).change(path, node.value, perms)
        self._changed(path, tx, base)

    def commit(self, who: int, tx: Transaction) -> None:
        """Takes a transaction over, or ENOMEM (a request in it failed), ENOSPC (quota), EAGAIN (conflict)."""
        if tx.failed:
            raise RefusedError("ENOMEM")
        if who:
            nodes, held = tx.growth(who)
            if nodes > 0 and self.tree.owned.get(who, 0) + nodes > self.quotas.nodes:
                raise RefusedError("ENOSPC")
            self._check_bytes(who, self.tree, held)
        if tx.conflicts(self.tree):
            raise RefusedError("EAGAIN")
        apply(tx.changes(), self.tree)
        for path, exact in tx.events.items():
            self._fire(path, exact=exact, grants=partial(grants, tx.base, self.tree.root, path))

    # --- inside

    def _create(self, who: int, path: str, value: bytes, tx: Transaction | None) -> None:
        tree = tx.tree if tx else self.tree
        above, parent = nearest(tree.root, path)
        levels = path.count("/") - (0 if above == "/" else above.count("/"))
        if who and (tree.owned.get(who, 0) + levels > self.quotas.nodes or path.count("/") > QUOTA_DEPTH):
            raise RefusedError("ENOSPC")
        self._check_bytes(who, tree, len(value))
        first = path[1 if above == "/" else len(above) + 1 :].partition("/")[0]
        self._check_size(who, len(parent.value) + len(first) + 1, parent.perms, parent)
        perms = (Perm(who, parent.perms[0].access), *parent.perms[1:]) if who else parent.perms
        self._check_size(who, len(value), perms, None)
        made = tree.create(path, value, perms)
        if tx:
            for at in (above, *made):
                self._touch(who, tx, at)
                tx.note_modified(at)
        self._changed(path, tx)

    def _check_size(self, who: int, size: int, perms: Perms, node: Node | None) -> None:
        """A node's size as xenstored stores it (write_node_raw): `size` bytes of value, and its children's names."""
        if who:
            size += NODE_HEADER_BYTES + PERM_BYTES * len(perms) + (sum(map(len, node.children)) + len(node.children) if node else 0)
            if size >= self.quotas.node_size:
                raise RefusedError("ENOSPC")

    def _access(self, who: int, perms: Perms) -> int:
        return access_of(who, perms, self.targets[who]) if who in self.targets else access_of(who, perms)

    def _gone(self, domid: int) -> None:
        self.introduced.discard(domid)
        self._shut.discard(domid)
        self.targets = {one: target for one, target in self.targets.items() if domid not in (one, target)}
        self._fire(RELEASE_EVENT, exact=True)

    def _check_bytes(self, who: int, tree: Tree, more: int) -> None:
        if who and more > 0 and tree.held.get(who, 0) + more > self.quotas.memory:
            raise RefusedError("ENOSPC")

    def _changed(self, path: str, tx: Transaction | None, base: Node | None = None) -> None:
        if tx:
            tx.note_modified(path)
            tx.event(path, exact=False)
        else:
            self._fire(path, exact=False, grants=partial(grants, base, self.tree.root, path))

    def _touch(self, who: int, tx: Transaction, path: str) -> None:
        if who and path not in tx.seen and len(tx.seen) >= self.quotas.transaction_nodes:
            tx.failed = True
            raise RefusedError("ENOSPC")
        tx.note(path)

    def _fire(self, path: str, *, exact: bool, grants: Callable[[], tuple[Perms, ...]] = tuple) -> None:
        """`grants`: permissions of which any one lets a watcher hear of it."""
        watches = self.watches.match(path, exact)
        if not watches:
            return
        allowed = grants() if not path.startswith("@") else (self._special.get(path, (Perm(0, 0),)),)
        for watch in watches:
            who = watch.connection.domid
            if any(self._access(who, perms) & READ for perms in allowed):
                watch.connection.queue_event(watch, path)

    def _graft(self, top: str, nodes: Sequence[Change]) -> None:
        """Those of `nodes` that are `top` or below it."""
        inside = [one for one in nodes if one.path == top or one.path.startswith(f"{top}/")]
        self.tree.graft(top, [(one.path, one.value or b"", one.perms) for one in inside])

    def _forget(self, domid: int) -> None:
        """Removes a domain's nodes, those it owns elsewhere, and every permission entry that names it."""
        for path in domains.roots(domid, self.tree.root):
            if self.tree.get(path) is not None:
                self.remove_node(0, path, None)
        self._forget_owned(domid)

    def _forget_owned(self, domid: int) -> None:
        """domain_tree_remove."""
        if not self.tree.owned.get(domid) and not self.tree.mentioned.get(domid):
            return
        for path, node in walk("/", self.tree.root):
            if path != "/" and self.tree.get(path) is not None:
                if node.perms[0].domid == domid:
                    self.remove_node(0, path, None)
                elif any(perm.domid == domid for perm in node.perms):
                    kept = tuple(perm for perm in node.perms if perm.domid != domid)
                    self.tree.change(path, node.value, kept)
