"""A frame in one line of words, after tcpdump's, for people.

Every byte was written by a guest: whatever cannot be read is left out, names are escaped, and a line has at most 200 characters.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from emulator.dom0.network.frame import ETHER, mac_text

SNAP: Final = 320
"""Bytes of a frame that a line needs at most: up to the options of DHCP."""
MOST: Final = 200
_VLAN, _ARP, _IPV4, _IPV6 = 0x8100, 0x0806, 0x0800, 0x86DD
_FLAGS: Final = ((1, "F"), (2, "S"), (4, "R"), (8, "P"), (32, "U"))
_ICMP: Final = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMP6: Final = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply", 131: "multicast listener report",
                 133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation", 136: "neighbor advertisement",
                 143: "multicast listener report v2"}  # fmt: skip
_DHCP: Final = ("", "Discover", "Offer", "Request", "Decline", "ACK", "NACK", "Release", "Inform")
_DNS_TYPES: Final = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 255: "ANY"}
_DNS_CODES: Final = ("", "FormErr", "ServFail", "NXDomain", "NotImp", "Refused")


def one_line(data: bytes, length: int) -> str:
    """`data`: the frame's beginning; `length`: bytes of all of it."""
    if len(data) < ETHER:
        return f"{length} bytes, no frame"
    kind, at, vlan = int.from_bytes(data[12:14], "big"), ETHER, ""
    if kind == _VLAN and len(data) >= at + 4:
        vlan = f"vlan {int.from_bytes(data[14:16], 'big') & 0xFFF}, "
        kind, at = int.from_bytes(data[16:18], "big"), at + 4
    readers = {_ARP: _arp, _IPV4: _ip4, _IPV6: _ip6}
    reader = readers.get(kind)
    said = reader(data, at, length) if reader is not None else ""
    if not said:
        what = f"ethertype {kind:#06x}" if kind > 1500 else "802.3"
        said = f"{mac_text(data[6:12])} > {mac_text(data[:6])}, {what}, length {length}"
    return (vlan + said)[:MOST]


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _arp(data: bytes, at: int, length: int) -> str:
    if len(data) < at + 28 or data[at : at + 6] != b"\0\1\x08\0\6\4":
        return ""
    operation = int.from_bytes(data[at + 6 : at + 8], "big")
    sender_mac, sender, target = data[at + 8 : at + 14], _address(data[at + 14 : at + 18]), _address(data[at + 24 : at + 28])
    if operation == 1:
        return f"ARP, Request who-has {target} tell {sender}, length {length - at}"
    return f"ARP, Reply {sender} is-at {mac_text(sender_mac)}, length {length - at}" if operation == 2 else ""


def _ip4(data: bytes, at: int, length: int) -> str:
    if len(data) < at + 20 or data[at] >> 4 != 4:
        return ""
    header, total = (data[at] & 15) * 4, int.from_bytes(data[at + 2 : at + 4], "big")
    source, target, fragment = _address(data[at + 12 : at + 16]), _address(data[at + 16 : at + 20]), int.from_bytes(data[at + 6 : at + 8], "big")
    if header < 20 or total < header:
        return f"IP {source} > {target}: bad length {total}"
    if fragment & 0x1FFF:
        return f"IP {source} > {target}: fragment at {(fragment & 0x1FFF) * 8}, length {total - header}"
    more = " (first fragment)" if fragment & 0x2000 else ""
    return "IP " + _transport(data, at + header, data[at + 9], (source, target), total - header) + more


def _ip6(data: bytes, at: int, length: int) -> str:
    if len(data) < at + 40 or data[at] >> 4 != 6:
        return ""
    source, target = _address(data[at + 8 : at + 24]), _address(data[at + 24 : at + 40])
    size, protocol = int.from_bytes(data[at + 4 : at + 6], "big"), data[at + 6]
    at += 40
    if protocol == 0 and len(data) >= at + 8:  # hop by hop: of multicast listeners' reports
        skipped = data[at + 1] * 8 + 8
        protocol, at, size = data[at], at + skipped, size - skipped
    return "IP6 " + _transport(data, at, protocol, (source, target), size)


def _transport(data: bytes, at: int, protocol: int, ends: tuple[str, str], size: int) -> str:
    """What follows an IP header; `size`: bytes of it on the wire."""
    source, target = ends
    if protocol == 1 and len(data) >= at + 8:
        return f"{source} > {target}: ICMP {_icmp(_ICMP, data, at)}, length {size}"
    if protocol == 58 and len(data) >= at + 8:
        return f"{source} > {target}: ICMP6, {_icmp(_ICMP6, data, at)}, length {size}"
    if protocol not in (6, 17) or len(data) < at + (20 if protocol == 6 else 8):
        return f"{source} > {target}: protocol {protocol}, length {size}"
    ports: tuple[int, int] = struct.unpack_from(">HH", data, at)
    ends_text = f"{source}.{ports[0]} > {target}.{ports[1]}: "
    if protocol == 17:
        return ends_text + _udp(data[at + 8 :], ports, size - 8)
    sequence, acknowledged, offset, flags, window = struct.unpack_from(">IIBBH", data, at + 4)
    names = "".join(letter for bit, letter in _FLAGS if flags & bit) + ("." if flags & 16 else "")
    payload = max(0, size - (offset >> 4) * 4)
    numbers = f"seq {sequence}" + (f":{sequence + payload & 0xFFFFFFFF}" if payload else "")
    answered = f", ack {acknowledged}" if flags & 16 else ""
    return f"{ends_text}Flags [{names or 'none'}], {numbers}{answered}, win {window}, length {payload}"


def _icmp(names: dict[int, str], data: bytes, at: int) -> str:
    kind, code = data[at], data[at + 1]
    name = names.get(kind, f"type {kind} code {code}")
    if "echo" in name:
        ident, sequence = struct.unpack_from(">HH", data, at + 4)
        return f"{name}, id {ident}, seq {sequence}"
    return f"{name}, code {code}" if "unreachable" in name else name


def _udp(payload: bytes, ports: tuple[int, int], size: int) -> str:
    said = _dhcp(payload) if ports in ((67, 68), (68, 67)) else _dns(payload) if 53 in ports else ""
    return f"{said}, length {size}" if said else f"UDP, length {size}"


def _dhcp(payload: bytes) -> str:
    if len(payload) < 240:
        return ""
    kind = payload[242] if payload[240:242] == b"\x35\x01" and len(payload) > 242 else 0
    name = _DHCP[kind] if kind < len(_DHCP) else ""
    given = f", {_address(payload[16:20])}" if any(payload[16:20]) else ""
    return f"BOOTP/DHCP, {'Request from' if payload[0] == 1 else 'Reply to'} {mac_text(payload[28:34])}" + (f", {name}" if name else "") + given


def _dns(payload: bytes) -> str:
    if len(payload) < 17:
        return ""
    ident, flags, questions, answers = struct.unpack_from(">HHHH", payload)
    name, at = _dns_name(payload)
    if not questions or at + 4 > len(payload):
        return ""
    (kind,) = struct.unpack_from(">H", payload, at)
    asked = f"{_DNS_TYPES.get(kind, f'type {kind}')}? {name}"
    if not flags & 0x8000:
        return f"{ident} {asked}"
    code = flags & 15
    result = f"{answers} answers" if not code else _DNS_CODES[code] if code < len(_DNS_CODES) else f"error {code}"
    return f"{ident} {result} {asked}"


def _dns_name(payload: bytes) -> tuple[str, int]:
    """The question's name, whatever is not plain escaped, and where it ends."""
    labels: list[str] = []
    at = 12
    while at < len(payload) and payload[at] and len(labels) < 16:
        size = payload[at]
        label = payload[at + 1 : at + 1 + size]
        labels.append("".join(chr(byte) if 33 <= byte < 127 and byte not in b".\\" else f"\\{byte:03d}" for byte in label[:63]))
        at += 1 + size
    return ".".join(labels)[:100] + ".", at + 1
