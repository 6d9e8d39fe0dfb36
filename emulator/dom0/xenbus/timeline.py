"""What happened between the two ends of a device, for people: each change of a state and what was written for it, bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from emulator.abi.xenbus import (
    XENBUS_CLOSED,
    XENBUS_CLOSING,
    XENBUS_CONNECTED,
    XENBUS_INIT_WAIT,
    XENBUS_INITIALISED,
    XENBUS_INITIALISING,
)

Who = Literal["frontend", "backend", "toolstack"]

STEPS_KEPT: Final = 64
NODES_KEPT: Final = 24  # of one step
_NAME_CHARACTERS, _VALUE_CHARACTERS = 64, 80


@dataclass(frozen=True, slots=True)
class Step:
    """One side went from a state to another; numbers are enum xenbus_state."""

    time_unix: float
    who: Who  # whose state it is, or `toolstack`: both sides' first states, and those of a restored snapshot
    before: int
    after: int
    nodes: tuple[tuple[str, str], ...]  # what that side wrote since its last step, by name below its directory


@dataclass(frozen=True, slots=True)
class Waiting:
    """`who` waits for `whom` to do `what`."""

    who: Who
    whom: Who
    what: str

    def line(self) -> str:
        return f"the {self.who} waits for the {self.whom} {self.what}"


class Timeline:
    """Written in the holder's turn, read there too."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=STEPS_KEPT)
        self._written: dict[Who, dict[str, str]] = {}
        self.forgotten = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps)

    def wrote(self, who: Who, nodes: Mapping[str, str]) -> None:
        """Nodes that belong to the next step of that side; a guest's are cut to what can be shown."""
        kept = self._written.setdefault(who, {})
        for name, value in nodes.items():
            if len(kept) < NODES_KEPT or name in kept:
                kept[_printable(name, _NAME_CHARACTERS)] = _printable(value, _VALUE_CHARACTERS)

    def step(self, who: Who, before: int, after: int) -> None:
        self.forgotten += len(self._steps) == STEPS_KEPT
        self._steps.append(Step(time.time(), who, before, after, tuple(self._written.pop(who, {}).items())))


def _printable(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:most])


def waiting(frontend: int, backend: int, *, online: bool, trouble: str = "") -> Waiting | None:
    """Who is to move next, from the two states. None: both are content, or the device is gone."""
    if backend == XENBUS_INITIALISING:
        return Waiting("frontend", "backend", "to say what it can do (init-wait)")
    if backend == XENBUS_CLOSING:
        if trouble:
            return Waiting("backend", "frontend", f"to close (closed): {trouble}")
        if not online and frontend != XENBUS_CLOSING:
            return Waiting("backend", "frontend", "to let the device go (closing, then closed): it is being unplugged")
        return Waiting("backend", "frontend", "to finish closing (closed)")
    if backend == XENBUS_CLOSED:
        return Waiting("backend", "frontend", "to start anew (initialising)") if online else None
    if backend == XENBUS_INIT_WAIT:
        if frontend in (XENBUS_INITIALISED, XENBUS_CONNECTED):
            return Waiting("frontend", "backend", "to map its ring and connect (connected)")
        return Waiting("backend", "frontend", "to grant a ring and an event channel (initialised or connected): no driver has yet")
    if backend == XENBUS_CONNECTED and frontend == XENBUS_INITIALISED:
        return Waiting("backend", "frontend", "to set its device up (connected)")
    if backend == XENBUS_CONNECTED and frontend != XENBUS_CONNECTED:
        return Waiting("backend", "frontend", "to grant a new ring (initialised or connected)")
    return None
