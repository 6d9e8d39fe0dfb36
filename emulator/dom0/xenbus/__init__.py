"""The backend's side of xenbus: how two ends of a device find each other through xenstore.

`handshake` is the state machine (no I/O), `watching` feeds it from the store. Any backend uses both.
"""

from emulator.dom0.xenbus.handshake import BackendHandshake, Command, Connect, Disconnect, Remove, Step, SwitchTo
from emulator.dom0.xenbus.watching import FrontendWatch

__all__ = ["BackendHandshake", "Command", "Connect", "Disconnect", "FrontendWatch", "Remove", "Step", "SwitchTo"]
