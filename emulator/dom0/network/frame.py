"""An Ethernet frame on its way, and the work that offloading leaves to whoever needs the bytes as they would be on a wire.

A guest may leave a TCP or UDP checksum blank (the field holds the pseudo header's sum) and hand over a TCP packet larger than any
wire carries, with the size of its segments. Between two guests that both know this, nothing needs to be computed; for all others
`complete` fills the checksum in and `segment` cuts. Neither trusts a byte of the frame: what cannot be parsed goes on as it is, or
not at all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

ETHER: Final = 14
MAX_SEGMENTS: Final = 256
"""A frame that stands for more segments is dropped: 64 KiB in pieces of one byte would be a flood for the price of a frame."""
_VLAN: Final = 0x8100
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


@dataclass(frozen=True, slots=True)
class Frame:
    """`data` from the destination address on, no checksum sequence. `blank`: the checksum of its TCP or UDP is for the receiver to
    fill in; `validated`: its bytes cannot have been damaged on the way; `gso`: payload of a segment in bytes, 0 for an ordinary
    frame, and `gso_type` XEN_NETIF_GSO_TYPE_*."""

    data: bytes
    blank: bool = False
    validated: bool = False
    gso: int = 0
    gso_type: int = 0

    @property
    def destination(self) -> bytes:
        return self.data[:6]

    @property
    def source(self) -> bytes:
        return self.data[6:12]


@dataclass(frozen=True, slots=True)
class Transport:
    """Where the transport header lies in a frame. `network`: offset of the IP header; `pseudo`: the addresses' bytes."""

    network: int
    start: int
    end: int
    protocol: int
    version: int
    pseudo: bytes

    @property
    def checksum(self) -> int:
        """Offset of the checksum field."""
        return self.start + (16 if self.protocol == _TCP else 6)


def ones_sum(data: bytes | memoryview, start: int = 0) -> int:
    """The Internet checksum's sum, folded to 16 bits, not inverted. A number modulo 0xffff is its digits' sum in base 0x10000."""
    total = start + int.from_bytes(data, "big") * (256 if len(data) & 1 else 1)
    folded = total % 0xFFFF
    return folded or (0xFFFF if total else 0)


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """The Internet checksum (RFC 1071)."""
    return ones_sum(data, start) ^ 0xFFFF


def find_transport(data: bytes) -> Transport | None:
    """The TCP or UDP header of an unfragmented IPv4 or IPv6 frame; None when there is none, or it does not fit."""
    at = ETHER
    if len(data) < at:
        return None
    kind = int.from_bytes(data[12:14], "big")
    if kind == _VLAN and len(data) >= at + 4:
        kind, at = int.from_bytes(data[16:18], "big"), at + 4
    if kind == _IPV4 and len(data) >= at + 20 and data[at] >> 4 == 4:
        size, total = (data[at] & 15) * 4, int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 20 or int.from_bytes(data[at + 6 : at + 8], "big") & 0x3FFF:  # a fragment
            return None
        start, end, protocol, pseudo, version = at + size, at + total, data[at + 9], data[at + 12 : at + 20], 4
    elif kind == _IPV6 and len(data) >= at + 40 and data[at] >> 4 == 6:
        start, end = at + 40, at + 40 + int.from_bytes(data[at + 4 : at + 6], "big")
        protocol, pseudo, version = data[at + 6], data[at + 8 : at + 40], 6
    else:
        return None
    if protocol not in (_TCP, _UDP) or end > len(data) or start + (20 if protocol == _TCP else 8) > end:
        return None
    return Transport(at, start, end, protocol, version, pseudo)


def complete(frame: Frame) -> Frame:
    """With its checksum filled in, if it was blank."""
    if not frame.blank:
        return frame
    where = find_transport(frame.data)
    if where is None:
        return replace(frame, blank=False)
    data = bytearray(frame.data)
    _fill(data, where, where.end)
    return replace(frame, data=bytes(data), blank=False)


def _fill(data: bytearray, where: Transport, end: int) -> None:
    """The transport checksum of what lies in [start, end)."""
    at = where.checksum
    data[at : at + 2] = b"\0\0"
    total = ones_sum(where.pseudo) + where.protocol + (end - where.start)
    value = checksum(memoryview(data)[where.start : end], total)
    if not value and where.protocol == _UDP:
        value = 0xFFFF
    data[at : at + 2] = value.to_bytes(2, "big")


def segment(frame: Frame) -> list[Frame]:
    """A large TCP frame as the ordinary frames it stands for (tcp_gso_segment); [] when it is none."""
    if not frame.gso:
        return [frame]
    where = find_transport(frame.data)
    if where is None or where.protocol != _TCP:
        return []
    header = (frame.data[where.start + 12] >> 4) * 4
    payload = where.start + header
    if header < 20 or payload > where.end:
        return []
    data, made = frame.data, []
    (sequence,) = struct.unpack_from(">I", data, where.start + 4)
    flags = data[where.start + 13]
    ident = int.from_bytes(data[where.network + 4 : where.network + 6], "big")
    size = where.end - payload
    if size > frame.gso * MAX_SEGMENTS:
        return []
    for number, offset in enumerate(range(0, max(size, 1), frame.gso)):
        part = data[payload + offset : min(where.end, payload + offset + frame.gso)]
        out = bytearray(data[:payload]) + part
        struct.pack_into(">I", out, where.start + 4, sequence + offset & 0xFFFFFFFF)
        last = offset + frame.gso >= size
        out[where.start + 13] = flags & ~(0 if last else _FIN_PSH) & ~(_CWR if number else 0)
        length = len(out) - where.network
        if where.version == 4:
            struct.pack_into(">HH", out, where.network + 2, length, ident + number & 0xFFFF)
            out[where.network + 10 : where.network + 12] = b"\0\0"
            out[where.network + 10 : where.network + 12] = checksum(memoryview(out)[where.network : where.start]).to_bytes(2, "big")
        else:
            struct.pack_into(">H", out, where.network + 4, length - 40)
        _fill(out, where, len(out))
        made.append(Frame(bytes(out), validated=True))
    return made


def wire_frames(frame: Frame) -> list[Frame]:
    """A frame as a wire would carry it: checksums full, no larger than its segments."""
    return segment(frame) if frame.gso else [complete(frame)]


def mac_text(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)
