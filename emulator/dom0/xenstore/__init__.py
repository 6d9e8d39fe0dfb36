"""xenstore: the small database that guests and Domain-0 tell each other things by. No I/O: bytes in, bytes out.

`Store` holds the tree of all domains, `Connection` speaks the wire protocol for one client, `XenstoreRing` moves its bytes
through a guest's page, `standard_nodes` is what libxl writes for a new PV guest.
"""

from emulator.dom0.xenstore.domains import standard_nodes
from emulator.dom0.xenstore.holdings import ConnectionState
from emulator.dom0.xenstore.ring import RingState, XenstoreRing
from emulator.dom0.xenstore.server import Connection
from emulator.dom0.xenstore.store import Store
from emulator.dom0.xenstore.transaction import Change
from emulator.dom0.xenstore.tree import Perm

__all__ = ["Change", "Connection", "ConnectionState", "Perm", "RingState", "Store", "XenstoreRing", "standard_nodes"]
