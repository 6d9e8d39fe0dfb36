"""What the store says to a guest while its run is recorded: in messages, which carry the bytes that they put into its ring.

Tools and other guests write among the nodes that a guest reads or watches, at moments that no replay repeats. So a recorded run hears the
store in messages alone: requests are taken and served in the guest's own hypercall as ever, replies and events follow by `Said`. A replay
serves the same requests, so that the store holds what the guest wrote and back ends hear of it, and puts in the ring what the message has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


@dataclass(frozen=True, slots=True)
class Words:
    """`data` was put into the ring; `replies`: how many answers to requests ended in it."""

    data: bytes
    replies: int


@dataclass(frozen=True, slots=True)
class Said:
    """`words`: one, as soon as the message was applied in the recorded run."""

    words: list[Words] = field(default_factory=list, compare=False)

    def apply(self, domain: Domain) -> None:
        domain.receivers["xenstore-said"](self.words)  # type: ignore[arg-type]
