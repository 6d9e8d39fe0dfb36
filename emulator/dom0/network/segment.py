"""A TCP segment without its addresses, and sequence numbers, which wrap."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Segment:
    sequence: int
    acknowledged: int
    flags: int
    window: int
    payload: bytes = b""
    mss: int = 0  # option, 0 without
    scale: int = -1  # option, -1 without


def new_isn() -> int:
    """An initial sequence number that nobody can guess."""
    return secrets.randbits(32)


def past(a: int, b: int) -> int:
    """How far sequence number `a` is past `b`; negative before it."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000
