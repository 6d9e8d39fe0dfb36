"""How much one domain may have of the store (xenstored's quotas, its defaults), and one client on the socket."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

QUOTA_NODES: Final = 1000
QUOTA_WATCHES: Final = 128
QUOTA_TRANSACTIONS: Final = 10
QUOTA_OUTSTANDING: Final = 20
QUOTA_TRANSACTION_NODES: Final = 1024
QUOTA_NODE_BYTES: Final = 2048
QUOTA_TOTAL_BYTES: Final = 512 * 1024
QUOTA_PERMS: Final = 5

NODE_HEADER_BYTES: Final = 20  # struct xs_tdb_record_hdr
PERM_BYTES: Final = 8  # struct xs_permissions


@dataclass(slots=True)
class Quotas:
    """Of each guest; Domain-0 has none. Changed by `xenstore-control quota set`; the field's names are that command's, - for _."""

    nodes: int = QUOTA_NODES
    watches: int = QUOTA_WATCHES
    transactions: int = QUOTA_TRANSACTIONS
    outstanding: int = QUOTA_OUTSTANDING  # replies that wait to be read
    transaction_nodes: int = QUOTA_TRANSACTION_NODES
    memory: int = QUOTA_TOTAL_BYTES  # bytes of values; a transaction's copy counts by itself
    node_size: int = QUOTA_NODE_BYTES  # a node's value, permissions and names of children, as xenstored stores them
    permissions: int = QUOTA_PERMS

    def rows(self) -> list[tuple[str, int, str]]:
        """Name, value and words, as `quota` prints them."""
        return [(field.name.replace("_", "-"), getattr(self, field.name), _WORDS[field.name]) for field in fields(self)]

    def set(self, name: str, value: int) -> bool:
        """False when there is none of that name or `value` is not positive."""
        field = name.replace("-", "_")
        if value < 1 or "_" in name or field not in _WORDS:
            return False
        setattr(self, field, value)
        return True


_WORDS: Final = {
    "nodes": "Nodes per domain",
    "watches": "Watches per domain",
    "transactions": "Transactions per domain",
    "outstanding": "Outstanding requests per domain",
    "transaction_nodes": "Max. number of accessed nodes per transaction",
    "memory": "Total Xenstore memory per domain (error level)",
    "node_size": "Max. size of a node",
    "permissions": "Max. number of permissions per node",
}


@dataclass(frozen=True, slots=True)
class ClientBounds:
    """Of one client on the socket. They are Domain-0's tools, which have no quota in Xen; a runaway one shall not fill the engine.
    `nodes` and `memory` are Domain-0's in all: beyond them the tools make nothing new, the toolstack still may."""

    watches: int = 4096
    transactions: int = 64
    nodes: int = 400_000
    memory: int = 128 << 20
