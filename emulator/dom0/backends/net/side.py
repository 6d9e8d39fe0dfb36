"""What an interface needs of its guest and knows of its frontend, and the message that brings it frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emulator.dom0.grants import GrantLook
from emulator.dom0.network import Frame


class GuestSide(Protocol):
    """What an interface needs of its guest."""

    domid: int
    memory: memoryview

    @property
    def grants(self) -> GrantLook: ...

    def bind(self, port: int, name: str) -> None:
        """Take the far end of an event channel that the guest offers to Domain-0. ValueError says why not."""

    def unbind(self, port: int, name: str) -> None: ...

    def notify(self, port: int, name: str) -> None:
        """An event for the guest, if the port is still ours."""

    def notify_lazily(self, port: int, name: str, ns: int) -> None:
        """The same for an event that may come with another, within so many ns."""

    def written(self, frames: Sequence[int]) -> None:
        """These machine frames have new contents."""

    def send(self, name: str, frames: tuple[Frame, ...]) -> None:
        """Have `received(frames)` called in the holder's turn. Any thread."""

    def wake(self, name: str, at_ns: int) -> None:
        """Have `received(())` called when the guest's clock reads about `at_ns`."""

    @property
    def replaying(self) -> bool:
        """What the guest sends was sent before."""

    def now(self) -> int:
        """The guest's clock, ns."""

    def log(self, level: str, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the frontend can take: several slots a frame, large frames, blank checksums; whether it filters multicast here."""

    sg: bool = False
    gso: frozenset[int] = frozenset()
    csum4: bool = True
    csum6: bool = False
    multicast_control: bool = False


@dataclass(slots=True)
class VifCounters:
    """From the guest's side: `tx` it sent, `rx` it got."""

    tx_frames: int = 0
    tx_bytes: int = 0
    tx_errors: int = 0
    rx_frames: int = 0
    rx_bytes: int = 0
    waited: int = 0  # frames that came through its mailbox
    wait_ns: int = 0  # for how long they did, in all: from the bridge to the guest's ring
    drops: dict[str, int] = field(default_factory=dict)
    """Frames that it did not get, by reason. Each reason is counted by one thread alone."""

    def drop(self, why: str, frames: int = 1) -> None:
        self.drops[why] = self.drops.get(why, 0) + frames

    @property
    def rx_dropped(self) -> int:
        return sum(tuple(self.drops.values()))


@dataclass(frozen=True, slots=True)
class FramesIn:
    """A message: frames for one interface; none: it may look for credit again."""

    name: str
    frames: tuple[Frame, ...]

    def apply(self, domain: Any) -> None:
        receiver = domain.receivers.get(self.name)
        if receiver is not None:
            receiver(self.frames)
