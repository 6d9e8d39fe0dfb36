"""Virtual networks: `frame` what moves, `bridge` where to, `switch` the named networks, `bucket` how fast, `pcapng` a record of it."""

from emulator.dom0.network.bridge import Bridge
from emulator.dom0.network.bucket import Rate, TokenBucket
from emulator.dom0.network.frame import Frame, mac_text
from emulator.dom0.network.pcapng import Capture
from emulator.dom0.network.switch import Network, NetworkReport, Networks, Sink

__all__ = ["Bridge", "Capture", "Frame", "Network", "NetworkReport", "Networks", "Rate", "Sink", "TokenBucket", "mac_text"]
