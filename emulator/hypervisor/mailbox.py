"""Messages to a domain: everything that reaches it from outside, applied between two slices by the worker that holds it.

The log of applied messages with their positions (`Clock.count`) is a complete recording: the same domain, built the same way and given
the same log, runs the same instructions (see `replay`)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


class Stage(IntEnum):
    """What was done of a turn in which not one block ran, since a message cut in: timers fired and a vCPU chosen, or its events
    delivered, too. The guest can tell whether that came before the message or after."""

    NOT_BEGUN = 0
    CHOSEN = 1
    DELIVERED = 2


class Message(Protocol):
    def apply(self, domain: Domain) -> None: ...


class PeerRequest(Message, Protocol):
    """What another domain asks; it hears an answer, also when the domain is `gone`."""

    def gone(self, domid: int) -> None: ...


class Level(msgspec.Struct, frozen=True, gc=False):
    """The real clock, in ns since the domain's creation, and how much of what passed was other domains' (steal)."""

    ns: int
    stolen: int = 0

    def apply(self, domain: Domain) -> None:
        if self.stolen:
            domain.time.stolen(min(self.stolen, self.ns - domain.clock.now()))
        domain.clock.level(self.ns)
        domain.events.flush_late()
        domain.events.flush_lazy()


@dataclass(frozen=True, slots=True)
class Stopped:
    """The domain did not run for a time that its clock is about to skip, as after a restore."""

    def apply(self, domain: Domain) -> None:
        domain.time.guest_stopped()


@dataclass(frozen=True, slots=True)
class Cut:
    """The guest stopped here and went on, for reasons of the host's or its own. It cannot tell, but the counts can: a block that a store of
    its own has changed is begun again for one instruction, and that is forgotten where a stop comes between."""

    def apply(self, domain: Domain) -> None: ...


@dataclass(frozen=True, slots=True)
class Rotate:
    """The vCPU that has the core held it long enough by the real clock."""

    def apply(self, domain: Domain) -> None:
        domain.rotation.give_up()


@dataclass(frozen=True, slots=True)
class ToBackend:
    """Bytes or words for one of Domain-0's backends of this domain: typed input, a xenstore write."""

    backend: str
    data: bytes

    def apply(self, domain: Domain) -> None:
        domain.receivers[self.backend](self.data)


@dataclass(frozen=True, slots=True)
class Logged:
    """A message and where it was applied: at this count, and how far the next turn there had come (`Stage`)."""

    count: int
    message: Message
    stage: Stage = field(default=Stage.NOT_BEGUN, compare=False)


class Mailbox:
    """A queue that any thread fills and the domain's holder empties (deque's ends are atomic)."""

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def post(self, message: Message) -> None:
        self._queue.append(message)

    def take(self) -> Message | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None
