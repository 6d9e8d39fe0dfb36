"""The backend's side of xenbus: how two ends of a device find each other through xenstore.

`handshake` is the state machine (no I/O) and `timeline` its history, `backend` carries its commands out on the store,
`watching` hears of the frontend there, `plugging` has devices come and go. Any device's backend is an `XenbusBackend`.
"""

from emulator.dom0.xenbus.backend import BackendSide, XenbusBackend
from emulator.dom0.xenbus.handshake import BackendHandshake, Command, Connect, Disconnect, Remove, SwitchTo
from emulator.dom0.xenbus.plugging import Detach, Plug
from emulator.dom0.xenbus.timeline import Step, Timeline, Waiting
from emulator.dom0.xenbus.watching import FrontendWatch

__all__ = [
    "BackendHandshake", "BackendSide", "Command", "Connect", "Detach", "Disconnect", "FrontendWatch", "Plug", "Remove", "Step", "SwitchTo",
    "Timeline", "Waiting", "XenbusBackend",
]  # fmt: skip
