"""The xenbus timeline of a domain's devices, as `views` has all else. The part "handshakes" of a domain's detail."""

from __future__ import annotations

from emulator.control.view import View


class HandshakeStepView(View, frozen=True):
    """One change of a device's state in xenstore. States are XenbusState names in words (initialising, init-wait, connected, …)."""

    time_unix: float
    who: str  # "frontend" or "backend", whose state it is; "toolstack": the first states of both, and those of a restored snapshot
    before: str
    after: str
    nodes: tuple[tuple[str, str], ...] = ()  # what that side wrote since its last step: name below its directory, value cut to 80 characters


class HandshakeView(View, frozen=True):
    """How the two ends of one split device found each other, and who is to move next. `waits` says it in one line: "the backend
    waits for the frontend to grant a ring and an event channel (initialised or connected): no driver has yet"."""

    device: str  # as people call it: "xvda", "vif3.0"
    kind: str  # xenbus's: "vbd", "vif"
    devid: int
    frontend: str = ""  # state now, in words
    backend: str = ""
    frontend_path: str = ""  # directories in xenstore
    backend_path: str = ""
    waiter: str = ""  # "frontend", "backend", "" when nobody waits: both are content, or the device is gone
    waits_for: str = ""  # the other side
    waits: str = ""  # one line, "" when nobody waits
    since_unix: float = 0.0  # of the last step
    steps: tuple[HandshakeStepView, ...] = ()  # oldest first, at most 64
    forgotten: int = 0  # older steps that are not kept
    trouble: str = ""  # why the backend closed the device on the frontend
