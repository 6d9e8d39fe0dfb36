"""The handshake of a backend as a state machine: the frontend's states in, commands out (Linux's xen-blkback/xenbus.c, frontend_changed).

    frontend                      backend
                                  InitWait      what it can do is in the store
    Initialised / Connected  ->   Connect, then Connected
    Closing                  ->   Disconnect, Closing
    Closed                   ->   Disconnect, Closed; Remove unless it is to stay online
    gone                     ->   Disconnect, Remove
    Initialising after that  ->   InitWait again: another driver (a kernel that a boot loader started)

The owner carries the commands out in their order and says `connected` or `failed` after a Connect.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.abi.xenbus import (
    XENBUS_CLOSED,
    XENBUS_CLOSING,
    XENBUS_CONNECTED,
    XENBUS_INIT_WAIT,
    XENBUS_INITIALISED,
    XENBUS_INITIALISING,
    XENBUS_UNKNOWN,
)
from emulator.dom0.xenbus.timeline import Timeline


@dataclass(frozen=True, slots=True)
class SwitchTo:
    """Write our state to the store."""

    state: int


@dataclass(frozen=True, slots=True)
class Connect:
    """Read the frontend's nodes, take its ring and event channel; then call `connected` or `failed`."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Let ring, grants and event channel go."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The device is gone for good: remove its nodes."""


Command = SwitchTo | Connect | Disconnect | Remove


class BackendHandshake:
    def __init__(self) -> None:
        self.state = XENBUS_INITIALISING
        self.frontend = XENBUS_UNKNOWN
        self.online = True
        self.attached = False  # ring and event channel are held
        self.removed = False
        self.timeline = Timeline()

    def start(self) -> list[Command]:
        """The nodes of both sides are written, the backend's offers among them."""
        self.frontend = XENBUS_INITIALISING
        self.timeline.step("toolstack", XENBUS_UNKNOWN, XENBUS_INITIALISING)
        return [self._switch(XENBUS_INIT_WAIT)]

    def frontend_changed(self, state: int) -> list[Command]:
        """The frontend's state node was written, or is gone (XENBUS_UNKNOWN). Any number may come: nonsense is ignored."""
        if self.removed:
            return []
        if state != self.frontend:
            self.timeline.step("frontend", self.frontend, state)
        was, self.frontend = self.frontend, state
        if state == XENBUS_INITIALISING:
            return [self._switch(XENBUS_INIT_WAIT)] if self.state == XENBUS_CLOSED and self.online else []
        if state in (XENBUS_INITIALISED, XENBUS_CONNECTED):
            if self.state == XENBUS_CONNECTED or not self.online or self.state == XENBUS_CLOSING or was == state:
                return []
            # A frontend that comes back without having closed gets a new start (a crashed kernel's successor).
            return [*self._detach(), Connect()]
        if state == XENBUS_CLOSING:
            return [*self._detach(), self._switch(XENBUS_CLOSING)] if self.state not in (XENBUS_CLOSING, XENBUS_CLOSED) else self._detach()
        if state == XENBUS_CLOSED:
            commands = [*self._detach(), *([self._switch(XENBUS_CLOSED)] if self.state != XENBUS_CLOSED else [])]
            return commands if self.online else [*commands, self._remove()]
        if state == XENBUS_UNKNOWN and was != XENBUS_UNKNOWN:
            return [*self._detach(), self._remove()]
        return []

    def connected(self) -> list[Command]:
        """A Connect went well."""
        self.attached = True
        return [self._switch(XENBUS_CONNECTED)]

    def failed(self) -> list[Command]:
        """A Connect failed, or the frontend broke the protocol later."""
        return [*self._detach(), self._switch(XENBUS_CLOSING)]

    def detach(self, force: bool = False) -> list[Command]:
        """Unplug: ask the frontend to close; by force without asking."""
        self.online = False
        if self.removed:
            return []
        if force or self.frontend in (XENBUS_UNKNOWN, XENBUS_INITIALISING, XENBUS_CLOSED):
            return [*self._detach(), self._switch(XENBUS_CLOSED), self._remove()]
        return [self._switch(XENBUS_CLOSING)]

    def _switch(self, state: int) -> SwitchTo:
        self.timeline.step("backend", self.state, state)
        self.state = state
        return SwitchTo(state)

    def _detach(self) -> list[Command]:
        if not self.attached:
            return []
        self.attached = False
        return [Disconnect()]

    def _remove(self) -> Remove:
        self.removed = True
        return Remove()

    def save(self) -> tuple[int, int, bool, bool, bool]:
        return self.state, self.frontend, self.online, self.attached, self.removed

    def load(self, state: tuple[int, int, bool, bool, bool]) -> None:
        before = self.state
        self.state, self.frontend, self.online, self.attached, self.removed = state
        self.timeline.step("toolstack", before, self.state)  # back to a snapshot
