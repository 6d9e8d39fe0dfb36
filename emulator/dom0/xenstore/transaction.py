"""A transaction: a copy of the tree, what was looked at in it, what was changed, and the events its commit will fire.

It commits when nothing it looked at has another generation by then (finalize_transaction), else EAGAIN. Unlike xenstored,
which copies nodes as they are touched, it reads from the whole tree as it was at its start, as docs/misc/xenstore.txt says.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.dom0.xenstore.tree import Node, Perm, Perms, Tree, find, nearest, parent_of


@dataclass(frozen=True, slots=True)
class Change:
    """One node as a transaction left it; `value` None: removed."""

    path: str
    value: bytes | None
    perms: tuple[Perm, ...] = ()


@dataclass(frozen=True, slots=True)
class TransactionState:
    """A saved transaction. Restored, it reads its own writes but cannot commit: the world outside it is another one."""

    tx_id: int
    changes: tuple[Change, ...]


class Transaction:
    def __init__(self, tx_id: int, live: Tree) -> None:
        self.tx_id = tx_id
        self.base: Node = live.root
        self.tree = live.copy()
        self._start = (self.tree.owned.copy(), self.tree.held.copy())
        self.seen: dict[str, int] = {}  # path -> generation at the start, 0: was not there
        self.modified: dict[str, None] = {}
        self.events: dict[str, bool] = {}  # path -> exact: only a watch on that very path fires
        self.failed = False  # a request in it hit a quota: it will not commit
        self.stale = False  # restored from a snapshot: it will not commit either

    def growth(self, domid: int) -> tuple[int, int]:
        """Nodes and value bytes that the domain owns more of than at the start."""
        owned, held = self._start
        return self.tree.owned.get(domid, 0) - owned.get(domid, 0), self.tree.held.get(domid, 0) - held.get(domid, 0)

    def note(self, path: str) -> None:
        """Remembers that the outcome depends on this node."""
        if path not in self.seen:
            node = find(self.base, path)
            self.seen[path] = node.generation if node else 0

    def note_modified(self, path: str) -> None:
        self.note(path)
        self.modified[path] = None

    def event(self, path: str, exact: bool) -> None:
        self.events[path] = self.events.get(path, True) and exact

    def conflicts(self, live: Tree) -> bool:
        if self.stale:
            return True
        if live.root is self.base:
            return False
        for path, generation in self.seen.items():
            node = live.get(path)
            if (node.generation if node else 0) != generation:
                return True
        return False

    def changes(self) -> tuple[Change, ...]:
        """Removals, deepest first, then the rest, parents first."""
        gone: list[Change] = []
        there: list[Change] = []
        for path in sorted(self.modified, key=lambda path: path.split("/")):
            node = self.tree.get(path)
            if node is None:
                gone.append(Change(path, None))
            else:
                there.append(Change(path, node.value, node.perms))
        return (*reversed(gone), *there)

    def save(self) -> TransactionState:
        return TransactionState(self.tx_id, self.changes())

    @classmethod
    def load(cls, state: TransactionState, live: Tree) -> Transaction:
        transaction = cls(state.tx_id, live)
        transaction.stale = True
        apply(state.changes, transaction.tree)
        for change in state.changes:
            transaction.note_modified(change.path)
        return transaction


def apply(changes: tuple[Change, ...], tree: Tree) -> None:
    """Brings a tree to what a transaction left behind."""
    for change in changes:
        node = tree.get(change.path)
        if change.value is None:
            if node is not None:
                tree.remove(change.path)
        elif node is None:
            tree.create(change.path, change.value, change.perms)
        elif node.value != change.value or node.perms != change.perms:
            tree.change(change.path, change.value, change.perms)


def grants(base: Node | None, live: Node, path: str) -> tuple[Perms, ...]:
    """Permissions of which any one lets a watcher hear of `path`: the old node's, the new one's, its parent's."""
    found: list[Perms] = []
    old = find(base, path) if base is not None else None
    if old is not None:
        found.append(old.perms)
    node = find(live, path)
    if node is not None:
        found.append(node.perms)
        if path != "/":
            found.append(nearest(live, path.rpartition("/")[0] or "/")[1].perms)
    return tuple(found)


def grants_gone(base: Node, path: str) -> tuple[Perms, ...]:
    """The same for a node that was removed from `base`: its own and its parent's."""
    return tuple(node.perms for at in (path, parent_of(path)) if (node := find(base, at)) is not None)
