"""The user-mode uplink: a host of our own on a network, which gives guests addresses and answers them. Off unless asked for.

It speaks ARP, DHCP, ICMP echo, and DNS for the names it knows (its own, and those guests gave it by DHCP). Nothing goes past it but to
services of the host's loopback that the user named (`relay`): all other TCP is reset, other UDP ports are unreachable, and no name but its
own is looked up anywhere. Frames in, frames out; what is for a service goes to the relay, whose answers come by themselves.
"""

from __future__ import annotations

import ipaddress
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from emulator.dom0.network import packets
from emulator.dom0.network.dhcp import DhcpServer
from emulator.dom0.network.flows import Key
from emulator.dom0.network.frame import Frame, find_transport, ones_sum
from emulator.dom0.network.relay import Arrival, Relay
from emulator.dom0.network.services import Services

MAC: Final = packets.UPLINK_MAC
MAX_SEEN: Final = 256
"""Addresses that guests gave themselves and were heard from."""
_REFUSED, _NAME_ERROR, _FORMAT_ERROR, _NOT_IMPLEMENTED = 5, 3, 1, 4
_TTL_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class UplinkSpec:
    """`subnet`: its first host is the uplink, the others are for guests. `domain`: of the names it answers for. `services`: for all guests."""

    subnet: str = "10.0.2.0/24"
    domain: str = "xen"
    services: Services = field(default_factory=Services)


@dataclass(slots=True)
class UplinkCounters:
    frames: int = 0
    ignored: int = 0
    arp: int = 0
    dhcp: int = 0
    icmp: int = 0
    dns: int = 0
    refused: int = 0


class Uplink:
    """`receive` may be called from any thread; it blocks on nothing but itself."""

    def __init__(self, spec: UplinkSpec) -> None:
        self.spec = spec
        network = ipaddress.IPv4Network(spec.subnet)
        if not 8 <= network.prefixlen <= 30:
            raise ValueError("a subnet of 2 to 16 million hosts is needed")
        self.dhcp = DhcpServer(network, spec.domain)
        self.address, self._broadcast = self.dhcp.gateway, network.broadcast_address.packed
        self.counters = UplinkCounters()
        self.relay: Relay | None = None
        self._network = network
        self._seen: OrderedDict[bytes, bytes] = OrderedDict()  # IP address -> interface's
        self._lock = threading.Lock()

    def receive(self, frame: Frame) -> list[Frame]:
        """What the uplink answers."""
        with self._lock:
            self.counters.frames += 1
            data = frame.data
            if len(data) < 14 or data[:6] not in (MAC, packets.BROADCAST):
                return self._nothing()
            asked = packets.read_arp(data)
            if asked is not None:
                return self._arp(asked)
            packet = packets.read_ip(data)
            if packet is None or packet.target not in (self.address, self._broadcast, b"\xff" * 4):
                return self._nothing()
            if self._relayed(frame, packet):
                return []
            answer = self._ip(data[6:12], packet) if not frame.gso else b""
            return [Frame(packets.ethernet(data[6:12], MAC, packets.IPV4, answer), validated=True)] if answer else self._nothing()

    def _relayed(self, frame: Frame, packet: packets.Ip) -> bool:
        """Whether it is for a service, or belongs to what the relay has open; then it is the relay's."""
        relay = self.relay
        if relay is None or packet.target != self.address or packet.protocol not in (packets.TCP, packets.UDP):
            return False
        mac, ports = frame.source, packets.read_ports(packet)
        source = ipaddress.IPv4Address(packet.source)
        if ports is None or source not in self._network or packet.source in (self.address, self._broadcast):
            return False
        self._saw(packet.source, mac)
        protocol = "tcp" if packet.protocol == packets.TCP else "udp"
        if not relay.serves(mac, protocol, ports[1]) and Key(protocol, mac, packet.source, *ports) not in relay.flows:
            return False
        if not frame.blank and not frame.validated and not _sum_is_right(frame.data):
            self.counters.ignored += 1
        else:
            relay.post(Arrival(mac, packet))
        return True

    def _saw(self, address: bytes, mac: bytes) -> None:
        self._seen.pop(address, None)
        if len(self._seen) >= MAX_SEEN:
            self._seen.popitem(last=False)
        self._seen[address] = mac

    def left(self, mac: bytes) -> None:
        """The interface is gone."""
        with self._lock:
            self.dhcp.left(mac)

    def find(self, owner: bytes | None, guest: str) -> tuple[bytes, bytes] | None:
        """The interface's and the IP address of a guest: by its name, its address, or "" for that of the interface `owner`. Any thread."""
        with self._lock:
            leases = self.dhcp.leases
            if not guest or guest.lower() in self.dhcp.names:
                mac = self.dhcp.names[guest.lower()] if guest else owner
                heard = next((address for address, one in reversed(self._seen.items()) if one == mac), None)
                address = leases.get(mac, heard) if mac is not None else None
                return (mac, address) if mac is not None and address is not None else None
            try:
                address = ipaddress.IPv4Address(guest).packed
            except ValueError:
                return None
            mac = next((mac for mac, leased in leases.items() if leased == address), self._seen.get(address))
            return (mac, address) if mac is not None else None

    def _nothing(self) -> list[Frame]:
        self.counters.ignored += 1
        return []

    def _arp(self, asked: packets.Arp) -> list[Frame]:
        if asked.operation != 1 or asked.target != self.address or asked.sender == self.address:
            return self._nothing()
        self.counters.arp += 1
        if ipaddress.IPv4Address(asked.sender) in self._network:
            self._saw(asked.sender, asked.sender_mac)
        body = packets.arp(2, MAC, self.address, asked.sender_mac, asked.sender)
        return [Frame(packets.ethernet(asked.sender_mac, MAC, packets.ARP, body))]

    def _ip(self, mac: bytes, packet: packets.Ip) -> bytes:
        datagram = packets.read_udp(packet)
        if datagram is not None and datagram[1] == 67:
            answer = self.dhcp.receive(mac, datagram[2])
            if answer is None:
                return b""
            self.counters.dhcp += 1
            return packets.udp(self.address, 67, answer.to, 68, answer.payload)
        if packet.target != self.address:
            return b""
        if datagram is not None and datagram[1] == 53:
            self.counters.dns += 1
            reply = self._dns(datagram[2])
            return packets.udp(self.address, 53, packet.source, datagram[0], reply) if reply else b""
        if packet.protocol == packets.ICMP and packet.body[:2] == b"\x08\x00" and len(packet.body) >= 8:
            self.counters.icmp += 1
            return packets.ip(packets.ICMP, self.address, packet.source, packets.icmp(0, 0, packet.body[4:]))
        if packet.protocol == packets.TCP:
            self.counters.refused += 1
            return packets.reset(packet)
        if datagram is not None:
            self.counters.refused += 1
            unreachable = packets.icmp(3, 3, bytes(4) + packet.header + packet.body[:8])
            return packets.ip(packets.ICMP, self.address, packet.source, unreachable)
        return b""

    # --- DNS -------------------------------------------------------------------------------------------------------------------

    def _dns(self, query: bytes) -> bytes:
        """One question, answered from what is known here."""
        if len(query) < 12:
            return b""
        ident, flags, questions = struct.unpack_from(">HHH", query)
        if flags & 0x8000:
            return b""
        name, end = _read_name(query)
        if flags & 0x7800 or questions != 1 or end + 4 > len(query) or not end:
            code = _NOT_IMPLEMENTED if flags & 0x7800 else _FORMAT_ERROR
            return struct.pack(">HHHHHH", ident, 0x8000 | code, 0, 0, 0, 0)
        kind, family = struct.unpack_from(">HH", query, end)
        address, code = self._look_up(name)
        answer = b""
        if address is not None and kind in (1, 255) and family == 1:
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, _TTL_SECONDS, 4) + address
        head = struct.pack(">HHHHHH", ident, 0x8400 | flags & 0x0100 | code, 1, bool(answer), 0, 0)
        return head + query[12 : end + 4] + answer

    def _look_up(self, name: str) -> tuple[bytes | None, int]:
        """(address, error code)."""
        host, _, domain = name.partition(".")
        if domain not in ("", self.spec.domain):
            return None, _REFUSED
        if host in ("gateway", "host"):
            return self.address, 0
        mac = self.dhcp.names.get(host)
        address = self.dhcp.leases.get(mac) if mac is not None else None
        return address, 0 if address is not None else _NAME_ERROR


def _sum_is_right(data: bytes) -> bool:
    """The TCP or UDP checksum of a frame."""
    where = find_transport(data)
    if where is None:
        return False
    unsummed = where.protocol == packets.UDP and not any(data[where.checksum : where.checksum + 2])
    total = ones_sum(where.pseudo) + where.protocol + where.end - where.start
    return unsummed or ones_sum(data[where.start : where.end], total) == 0xFFFF


def _read_name(query: bytes) -> tuple[str, int]:
    """The question's name in small letters and where it ends; ("", 0) when it is none. A question has no compression."""
    labels: list[str] = []
    at = 12
    while at < len(query) and query[at]:
        size = query[at]
        if size > 63 or at + 1 + size > len(query) or len(labels) > 32:
            return "", 0
        labels.append(query[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return (".".join(labels), at + 1) if at < len(query) else ("", 0)
