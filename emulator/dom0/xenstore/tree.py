"""The tree of nodes: values, permissions, generations. Nodes never change; a write copies the path from the root to the node.

So a snapshot (a transaction's copy, a saved domain, a reader in another thread) is a root taken under the lock, in constant
time, and stays what it was. A node's generation changes with its value, its permissions or the names of its children, which
is what a transaction's conflict check compares (tools/xenstore/xenstored_transaction.c). Depth is bounded for guests, so
that the copied path stays short, and every walk is a loop: no guest can reach Python's recursion limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from emulator.dom0.xenstore.children import with_child, without_child
from emulator.dom0.xenstore.wire import XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX, RefusedError, decimal

READ: Final = 1
WRITE: Final = 2
OWNER: Final = 4

DOMID_FIRST_RESERVED: Final = 0x7FF0

_PATH: Final = re.compile(r"/|(?:/[A-Za-z0-9\-_@]+)+")
_DOMAIN_PREFIX: Final = re.compile(r"/local/domain/[0-9]{1,5}/")
_LETTERS: Final = "nrwb"  # index = READ | WRITE


class Perm(NamedTuple):
    """One permission entry. The first of a node names its owner, and what everyone not listed may do."""

    domid: int
    access: int

    def text(self) -> str:
        return f"{_LETTERS[self.access & 3]}{self.domid}"


Perms = tuple[Perm, ...]


class Node(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Nodes form no cycles, and there are fifty for each domain: the search for garbage need not look at them."""

    value: bytes
    perms: Perms
    generation: int
    children: Mapping[str, Node]  # in the order of creation; never changed in place


def parse_perm(text: bytes) -> Perm:
    """`r12` and the like (xs_strings_to_perms); EINVAL for anything else."""
    access = _LETTERS.find(text[:1].decode("latin-1")) if text else -1
    if access < 0:
        raise RefusedError("EINVAL")
    domid = decimal(text[1:])
    if domid >= DOMID_FIRST_RESERVED:
        raise RefusedError("EINVAL")
    return Perm(domid, access)


def access_of(domid: int, perms: Perms, target: int = -1) -> int:
    """What a domain may do with a node: READ, WRITE, OWNER bits (perm_for_conn); Domain-0 may do all. `target`: XS_SET_TARGET's."""
    if domid == 0 or perms[0].domid in (domid, target):
        return READ | WRITE | OWNER
    for perm in perms[1:]:
        if perm.domid in (domid, target):
            return perm.access
    return perms[0].access


def valid_path(path: str) -> bool:
    """Whether an absolute path is well formed (is_valid_nodename): characters, slashes, length past the domain's prefix."""
    if len(path) > XENSTORE_ABS_PATH_MAX or _PATH.fullmatch(path) is None:
        return False
    prefix = _DOMAIN_PREFIX.match(path)
    return len(path) - (prefix.end() if prefix else 0) <= XENSTORE_REL_PATH_MAX


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def ancestors(path: str) -> Iterator[str]:
    """The path itself, then its parents up to the root."""
    while path != "/":
        yield path
        path = parent_of(path)
    yield "/"


def find(root: Node, path: str) -> Node | None:
    node = root
    if path == "/":
        return node
    for name in path[1:].split("/"):
        child = node.children.get(name)
        if child is None:
            return None
        node = child
    return node


def nearest(root: Node, path: str) -> tuple[str, Node]:
    """The deepest existing node on the way to `path`, with its path."""
    node, at = root, 0
    if path != "/":
        for name in path[1:].split("/"):
            child = node.children.get(name)
            if child is None:
                break
            node = child
            at += len(name) + 1
    return path[:at] or "/", node


def walk(path: str, node: Node, most: int = 0) -> list[tuple[str, Node]]:
    """A node and all below it, parents before children, children in order; the first `most` of them if that is given."""
    found: list[tuple[str, Node]] = []
    stack = [(path, node)]
    while stack and not len(found) == most > 0:
        path, node = stack.pop()
        found.append((path, node))
        base = "" if path == "/" else path
        stack.extend((f"{base}/{name}", child) for name, child in reversed(list(node.children.items())))
    return found


class Tree:
    """A root that moves, with the accounts that quotas need, by domain: nodes owned, bytes of their values, and permission
    entries that name the domain on nodes of others."""

    __slots__ = ("generation", "held", "mentioned", "owned", "root")

    def __init__(self, root: Node, generation: int = 0) -> None:
        self.root = root
        self.generation = generation
        self.owned: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.mentioned: dict[int, int] = {}

    def copy(self) -> Tree:
        other = Tree(self.root, self.generation)
        other.owned = dict(self.owned)
        other.held = dict(self.held)
        other.mentioned = dict(self.mentioned)
        return other

    def get(self, path: str) -> Node | None:
        return find(self.root, path)

    def create(self, path: str, value: bytes, perms: Perms) -> list[str]:
        """Makes a missing node and the missing ones above it, all with `perms`; their paths, topmost first."""
        above, _ = nearest(self.root, path)
        names = path[1:].split("/")
        have = 0 if above == "/" else above.count("/")
        self.generation += 1
        node = Node(value, perms, self.generation, {})
        for name in reversed(names[have + 1 :]):
            self.generation += 1
            node = Node(b"", perms, self.generation, {name: node})
        self._account(perms, len(names) - have, len(value))
        self._hang(names[: have + 1], node)
        return ["/" + "/".join(names[: i + 1]) for i in range(have, len(names))]

    def change(self, path: str, value: bytes, perms: Perms) -> None:
        """Sets value and permissions of an existing node."""
        old = self.get(path)
        if old is None:
            raise KeyError(path)
        self._account(old.perms, -1, -len(old.value))
        self._account(perms, 1, len(value))
        self.generation += 1
        node = Node(value, perms, self.generation, old.children)
        if path == "/":
            self.root = node
        else:
            self._hang(path[1:].split("/"), node)

    def remove(self, path: str) -> None:
        """Removes an existing node (not the root) and all below it."""
        node = self.get(path)
        if node is None or path == "/":
            raise KeyError(path)
        for _, gone in walk(path, node):
            self._account(gone.perms, -1, -len(gone.value))
        self._hang(path[1:].split("/"), None)

    def graft(self, path: str, nodes: Sequence[tuple[str, bytes, Perms]]) -> None:
        """Puts `nodes`, of which `path` is the first and parents precede children, at `path`, whose parent exists, in the place of what is
        there."""
        old = self.get(path)
        if path == "/" or not nodes or nodes[0][0] != path:
            raise KeyError(path)
        below: dict[str, list[tuple[str, Node]]] = {}
        for at, value, perms in reversed(nodes):
            self.generation += 1
            node = Node(value, perms, self.generation, dict(reversed(below.pop(at, []))))
            below.setdefault(parent_of(at), []).append((at.rpartition("/")[2], node))
        (made,) = below.pop(parent_of(path))
        if below:
            raise KeyError(f"{path}: nodes without a parent: {sorted(below)}")
        for _, gone in walk(path, old) if old is not None else ():
            self._account(gone.perms, -1, -len(gone.value))
        for _, value, perms in nodes:
            self._account(perms, 1, len(value))
        self._hang(path[1:].split("/"), made[1])

    def _account(self, perms: Perms, count: int, size: int) -> None:
        owner = perms[0].domid
        self.owned[owner] = self.owned.get(owner, 0) + count
        self.held[owner] = self.held.get(owner, 0) + size
        for perm in perms[1:]:
            self.mentioned[perm.domid] = self.mentioned.get(perm.domid, 0) + count

    def _hang(self, names: list[str], node: Node | None) -> None:
        """Puts `node` (None: nothing) at `names`, whose parent exists, by a copy of the path above it."""
        chain = [self.root]
        for name in names[:-1]:
            chain.append(chain[-1].children[name])
        parent = chain[-1]
        generation = parent.generation
        if node is None or names[-1] not in parent.children:
            self.generation += 1
            generation = self.generation
        children = without_child(parent.children, names[-1]) if node is None else with_child(parent.children, names[-1], node)
        made = Node(parent.value, parent.perms, generation, children)
        for above, name in zip(reversed(chain[:-1]), reversed(names[:-1]), strict=True):
            made = Node(above.value, above.perms, above.generation, with_child(above.children, name, made))
        self.root = made
