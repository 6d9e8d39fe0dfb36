"""IPv4 packets in Ethernet frames, as far as a host on a network must read and write them. Reading trusts nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from emulator.dom0.network.frame import ETHER, checksum, ones_sum
from emulator.dom0.network.segment import Segment

UPLINK_MAC: Final = bytes.fromhex("00163effffff")
BROADCAST: Final = b"\xff" * 6
ARP, IPV4 = b"\x08\x06", b"\x08\x00"
ICMP, TCP, UDP = 1, 6, 17
_ARP: Final = struct.Struct(">HHBBH6s4s6s4s")
_IP: Final = struct.Struct(">BBHHHBBH4s4s")


@dataclass(frozen=True, slots=True)
class Arp:
    operation: int
    sender_mac: bytes
    sender: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Ip:
    """A whole packet; `header` is its header's bytes, `body` what follows."""

    protocol: int
    source: bytes
    target: bytes
    header: bytes
    body: bytes


def read_arp(data: bytes) -> Arp | None:
    if data[12:14] != ARP or len(data) < ETHER + _ARP.size:
        return None
    hardware, protocol, *sizes, operation, sender_mac, sender, _, target = _ARP.unpack_from(data, ETHER)
    if (hardware, protocol, sizes) != (1, 0x0800, [6, 4]):
        return None
    return Arp(operation, sender_mac, sender, target)


def read_ip(data: bytes) -> Ip | None:
    """None for fragments, options beyond the packet, wrong header sums."""
    if data[12:14] != IPV4 or len(data) < ETHER + _IP.size:
        return None
    first, _, total, _, fragment, _, protocol, _, source, target = _IP.unpack_from(data, ETHER)
    size = (first & 15) * 4
    if first >> 4 != 4 or size < 20 or total < size or ETHER + total > len(data) or fragment & 0x3FFF:
        return None
    header = data[ETHER : ETHER + size]
    if checksum(header):
        return None
    return Ip(protocol, source, target, header, data[ETHER + size : ETHER + total])


def ethernet(target: bytes, source: bytes, kind: bytes, body: bytes) -> bytes:
    return (target + source + kind + body).ljust(60, b"\0")


def arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _ARP.pack(1, 0x0800, 6, 4, operation, sender_mac, sender, target_mac, target)


def ip(protocol: int, source: bytes, target: bytes, body: bytes) -> bytes:
    header = bytearray(_IP.pack(0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol, 0, source, target))
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + body


def transport_sum(protocol: int, source: bytes, target: bytes, body: bytes) -> int:
    """The checksum of a UDP or TCP packet whose own field is zero."""
    return checksum(body, ones_sum(source + target) + protocol + len(body))


def udp(source: bytes, source_port: int, target: bytes, target_port: int, payload: bytes) -> bytes:
    """A UDP packet with its IP header."""
    head = struct.pack(">HHH", source_port, target_port, 8 + len(payload))
    value = transport_sum(UDP, source, target, head + b"\0\0" + payload) or 0xFFFF
    return ip(UDP, source, target, head + value.to_bytes(2, "big") + payload)


def read_udp(packet: Ip) -> tuple[int, int, bytes] | None:
    """(source port, target port, payload). Its checksum may be left to us; between guests nothing damages it."""
    if packet.protocol != UDP or len(packet.body) < 8:
        return None
    source, target, length, _ = struct.unpack_from(">HHHH", packet.body)
    if not 8 <= length <= len(packet.body):
        return None
    return source, target, packet.body[8:length]


def read_ports(packet: Ip) -> tuple[int, int] | None:
    """Source and target port of TCP or UDP."""
    if len(packet.body) < 8:
        return None
    ports: tuple[int, int] = struct.unpack_from(">HH", packet.body)
    return ports


def read_tcp(packet: Ip) -> Segment | None:
    """None when its header does not fit. Of its options the ones that matter in a SYN."""
    body = packet.body
    if len(body) < 20:
        return None
    sequence, acknowledged, offset, flags, window = struct.unpack_from(">IIBBH", body, 4)
    start = (offset >> 4) * 4
    if not 20 <= start <= len(body):
        return None
    mss, scale = _tcp_options(body[20:start]) if flags & 2 else (0, -1)
    return Segment(sequence, acknowledged, flags, window, body[start:], mss, scale)


def _tcp_options(data: bytes) -> tuple[int, int]:
    """Largest segment (0 without) and window scale (-1 without)."""
    mss, scale, at = 0, -1, 0
    while at < len(data) and data[at]:
        if data[at] == 1:
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or at + size > len(data):
            break
        if (data[at], size) == (2, 4):
            mss = int.from_bytes(data[at + 2 : at + 4], "big")
        elif (data[at], size) == (3, 3):
            scale = data[at + 2]
        at += size
    return mss, scale


def icmp(kind: int, code: int, rest: bytes) -> bytes:
    """`rest`: what follows the checksum."""
    value = checksum(struct.pack(">BBH", kind, code, 0) + rest)
    return struct.pack(">BBH", kind, code, value) + rest


def reset(packet: Ip) -> bytes:
    """The RST that answers a TCP packet nobody wants (RFC 9293, 3.10.7.1); empty for a RST."""
    if len(packet.body) < 20:
        return b""
    source, target, sequence, acknowledged, offset, flags = struct.unpack_from(">HHIIBB", packet.body)
    if flags & 4:
        return b""
    size = len(packet.body) - (offset >> 4) * 4 + (flags & 1) + (flags >> 1 & 1)
    numbers = (acknowledged, 0, 4) if flags & 16 else (0, sequence + max(0, size) & 0xFFFFFFFF, 0x14)
    body = struct.pack(">HHIIBBHHH", target, source, numbers[0], numbers[1], 5 << 4, numbers[2], 0, 0, 0)
    value = transport_sum(TCP, packet.target, packet.source, body)
    return ip(TCP, packet.target, packet.source, body[:16] + value.to_bytes(2, "big") + body[18:])
