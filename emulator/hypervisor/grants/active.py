"""One grant entry in use, and the refusal of a use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from emulator.abi import grant_table as abi

NO_FRAME: Final = -1
HOST_READ, HOST_WRITE, DEVICE_READ, DEVICE_WRITE = range(4)


class GrantError(Exception):
    """A use that was refused: `status` (GNTST_*) for the guest, the text for people."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{abi.GNTST_NAMES[-status]}: {reason}")
        self.status, self.reason = status, reason


@dataclass(slots=True)
class Active:
    """One entry in use: by whom, which bytes of which frame (-1: one of another domain, by a transitive entry), and how often (pins
    by kind)."""

    domid: int
    mfn: int
    start: int = 0
    length: int = 4096
    sub_page: bool = False
    pins: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    @property
    def pinned(self) -> bool:
        return any(self.pins)

    @property
    def written(self) -> bool:
        return self.pins[HOST_WRITE] > 0 or self.pins[DEVICE_WRITE] > 0
