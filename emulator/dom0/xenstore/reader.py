"""What Domain-0 reads of the store directly: of a root as it was at one moment, so that nobody waits for a long look."""

from __future__ import annotations

import threading

from emulator.dom0.xenstore import domains
from emulator.dom0.xenstore.transaction import Change
from emulator.dom0.xenstore.tree import Node, Perms, Tree, find, valid_path, walk


class StoreReader:
    def __init__(self, tree: Tree) -> None:
        self._lock = threading.RLock()
        self.tree = tree

    def snapshot(self) -> Node:
        """The root as it is now; it never changes."""
        with self._lock:
            return self.tree.root

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

    def save_domain(self, domid: int) -> tuple[Change, ...]:
        """All nodes of a domain as plain values, for a snapshot."""
        root = self.snapshot()
        found: list[Change] = []
        for path in domains.roots(domid, root):
            node = find(root, path)
            if node is not None:
                found.extend(Change(at, one.value, one.perms) for at, one in walk(path, node))
        return tuple(found)
