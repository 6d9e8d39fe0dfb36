"""Virtual networks: `frame` what moves, `bridge` where to, `switch` the named networks, `bucket` how fast, `pcapng` a record of it,
`decode` what it says, `uplink` a host of our own that gives guests addresses, `relay`, `flows` and `tcp` what it lets through to the
host's loopback."""

from emulator.dom0.network.bridge import Bridge
from emulator.dom0.network.bucket import Rate, TokenBucket
from emulator.dom0.network.frame import Frame, mac_text
from emulator.dom0.network.pcapng import Capture
from emulator.dom0.network.switch import Network, NetworkReport, Networks, Sink
from emulator.dom0.network.uplink import UplinkSpec

__all__ = ["Bridge", "Capture", "Frame", "Network", "NetworkReport", "Networks", "Rate", "Sink", "TokenBucket", "UplinkSpec", "mac_text"]
