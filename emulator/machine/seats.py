"""Who runs on physical CPUs, where each of them stands, and who held which CPU when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from emulator.errors import UserError
from emulator.machine.pools import Pool

SLEEPING, READY, HELD, GONE, MOVING = range(5)


class Actor(Protocol):
    """Something that runs in turns."""

    @property
    def domid(self) -> int: ...

    def turn(self, cpu: int, slice_ns: int) -> int | None:
        """Serve what waits and run for about `slice_ns`. Returns 0 to run again, a monotonic time (ns) to be woken at, None to
        sleep until `Workers.wake`."""

    def preempt(self) -> None:
        """End the running turn soon. Any thread; lost when none is running, or is only about to begin."""


@dataclass(eq=False)
class Seat:
    """An actor's place."""

    actor: Actor
    unit: Any
    pool: Pool
    state: int = SLEEPING
    again: bool = False  # woken while held
    wake_at: int = 0


class Seats(dict[int, Seat]):
    """By id of the actor."""

    def of(self, actor: Actor) -> Seat:
        """Raises UserError when it has gone."""
        seat = self.get(id(actor))
        if seat is None:
            raise UserError(f"domain {actor.domid} is gone")
        return seat


class Stint(msgspec.Struct, frozen=True, gc=False):
    """Who held which CPU, when (monotonic ns)."""

    cpu: int
    domid: int
    began: int
    ended: int
