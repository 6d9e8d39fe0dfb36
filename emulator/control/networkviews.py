"""Frozen views of the virtual networks: bridges, the interfaces of guests on them, the uplink, and the last frames in words.

Counters run since the interface or the network was made; `tx` is what the guest sent, `rx` what it got. Rates are over the last second
or so, by the engine's clock. All text is printable: what a guest put into a frame is escaped.
"""

from __future__ import annotations

from emulator.control.views import View


class DropView(View, frozen=True):
    """Frames that were not let through, by reason."""

    reason: str
    frames: int


class CaptureView(View, frozen=True):
    """A running capture to a pcapng file."""

    path: str
    frames: int = 0
    bytes: int = 0  # of the file
    limit: int = 0  # bytes at which it stops by itself
    trouble: str = ""  # why it stopped


class VifView(View, frozen=True):
    """One network interface of a guest."""

    domid: int
    devid: int
    name: str = ""  # "vif3.0"
    domain: str = ""
    network: str = ""
    mac: str = ""
    ip: str = ""  # as leased by the uplink, empty without a lease
    mtu: int = 0
    backend_state: str = ""  # "connected", …: xenbus states
    frontend_state: str = ""
    queues: int = 0  # pairs of rings, 0 while not connected
    tx_frames: int = 0
    tx_bytes: int = 0
    rx_frames: int = 0
    rx_bytes: int = 0
    tx_frames_rate: float = 0.0  # a second
    tx_bytes_rate: float = 0.0
    rx_frames_rate: float = 0.0
    rx_bytes_rate: float = 0.0
    drops: tuple[DropView, ...] = ()
    waiting: int = 0  # frames that wait for receive buffers
    limit: int = 0  # bytes a second it may send, 0 for no limit
    throttled: bool = False  # waits for credit now
    throttles: int = 0  # how often it had to
    multicast: int = -1  # addresses it asked for, -1 when it takes all
    capture: CaptureView | None = None
    waited: int = 0  # frames that came to it since it was made
    wait_ns: int = 0  # for how long they were on their way from the bridge to the guest's ring, in all
    alarm: str = ""  # one line: closed and why, stalled, throttled; empty when all is well


class BridgePortView(View, frozen=True):
    """One port of a bridge."""

    number: int
    name: str = ""  # "vif3.0", "uplink"
    mac: str = ""  # the one address it may send from, empty for a port that teaches the bridge
    frames: int = 0  # that came in
    bytes: int = 0
    flooded: int = 0  # that went to all ports
    drops: tuple[DropView, ...] = ()


class AddressView(View, frozen=True):
    """One line of a bridge's table."""

    mac: str
    port: int
    name: str = ""  # of the port
    fixed: bool = False  # an interface's own, not learned
    age_ns: int = 0  # since it was last seen, 0 for a fixed one


class LeaseView(View, frozen=True):
    ip: str
    mac: str
    host: str = ""  # the name the guest gave itself


class ForwardView(View, frozen=True):
    """A service that the uplink lets through."""

    protocol: str  # tcp udp
    inward: bool = False  # from the host's loopback to a guest
    listens: str = ""  # "10.0.2.1:8000"
    connects: str = ""  # "127.0.0.1:8000"
    flows: int = 0  # since it was made


class FlowView(View, frozen=True):
    """One connection, or one exchange of datagrams, through the uplink."""

    protocol: str
    guest: str  # "10.0.2.2:40000"
    host: str  # "127.0.0.1:8000"
    state: str = ""  # TCP's names; empty for UDP
    to_host: int = 0  # bytes
    to_guest: int = 0
    retransmits: int = 0
    age_ns: int = 0


class UplinkView(View, frozen=True):
    """The host of our own that gives the guests of a network addresses."""

    subnet: str
    address: str = ""
    domain: str = ""  # of the names it answers for
    leases: tuple[LeaseView, ...] = ()
    forwards: tuple[ForwardView, ...] = ()
    flows: tuple[FlowView, ...] = ()  # open now
    frames: int = 0
    arp: int = 0  # answered
    dhcp: int = 0
    icmp: int = 0
    dns: int = 0
    refused: int = 0
    ignored: int = 0


class NetworkView(View, frozen=True):
    """One named network."""

    name: str
    ports: tuple[BridgePortView, ...] = ()
    addresses: tuple[AddressView, ...] = ()
    uplink: UplinkView | None = None
    frames: int = 0  # that came in from all ports, those of interfaces that are gone too
    bytes: int = 0
    frames_rate: float = 0.0
    bytes_rate: float = 0.0
    drops: tuple[DropView, ...] = ()


class NetworksView(View, frozen=True):
    """What a network screen pulls at every tick."""

    networks: tuple[NetworkView, ...] = ()
    vifs: tuple[VifView, ...] = ()


class PacketView(View, frozen=True):
    """One frame on a network, in one line of words as tcpdump has them."""

    seq: int
    time_unix: float
    source: str  # the port's name
    length: int
    text: str
    fate: str = ""  # "to vif2.0", "to all", or why it went nowhere


class PacketTail(View, frozen=True):
    """The last frames of a network, oldest first, and the sequence number to ask from next time."""

    network: str
    packets: tuple[PacketView, ...] = ()
    seq: int = 0
    missed: int = 0  # frames between the one asked from and the first one here that are no longer kept
