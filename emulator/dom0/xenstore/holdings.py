"""What a connection holds: counted, and saved with a snapshot of its domain."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.dom0.xenstore.transaction import TransactionState


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """A saved connection, all plain values."""

    domid: int
    broken: str
    received: bytes
    output: tuple[bytes, ...]
    output_taken: int  # bytes of output[0] that were sent
    watches: tuple[tuple[str, bytes, bool], ...]  # path, token, relative
    transactions: tuple[TransactionState, ...]
    next_tx_id: int
    events_lost: int
    released: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """What a connection holds now."""

    watches: int
    transactions: int
    replies: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.watches} watches, {self.transactions} transactions, {self.replies} replies, {self.bytes} bytes of output"
