"""The transmit ring (frontend to backend), sans-I/O: `take` gives the frames that wait and answers their slots.

    slot 1     request: flags, size of the whole packet
    [extra infos: GSO, multicast filter]            only if slot 1 has extra_info
    slot 2 …   requests of the rest, each of its own size

A frontend may write anything at any time: the slots are copied once and the copies checked (after xenvif_tx_build_gops of Linux's
netback). What breaks the protocol breaks the ring, which is not served again until it is connected anew; a packet that is only
unusable (too short, too many slots) is answered with an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emulator.abi.netif import (
    EXTRA_GSO,
    EXTRA_MCAST,
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    SLOTS,
    TX_REQUEST,
    TX_RESPONSE,
    TX_SLOT,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    XEN_NETIF_NR_SLOTS_MIN,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from emulator.dom0.backends.net.ring import Ring
from emulator.dom0.backends.ring import FRAME
from emulator.dom0.grants import GrantError
from emulator.dom0.network.frame import ETHER, Frame, mac_text

MAX_MULTICAST: Final = 64
"""Addresses in a multicast filter (Linux's XEN_NETBK_MCAST_MAX)."""
_FATAL_SLOTS: Final = 20
_MASK: Final = 0xFFFFFFFF
_NAMES: Final = {NETTXF_csum_blank: "checksum blank", NETTXF_data_validated: "validated", NETTXF_more_data: "more", NETTXF_extra_info: "extra"}


class _Broken(Exception):
    """The frontend broke the protocol."""


@dataclass(slots=True)
class _Packet:
    """Slots of one packet as copied: (gref, offset, flags, id, size), the extra infos, and how many slots it took."""

    requests: list[tuple[int, int, int, int, int]]
    extras: list[bytes]
    slots: int
    size: int
    unusable: str = ""


class TxRing(Ring):
    slot_size = TX_SLOT

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.multicast: set[bytes] = set()
        self.errors = 0
        self.refused = ""  # the last packet that was answered with an error, and why

    def take(self, allow: Callable[[int], bool] = lambda size: True) -> list[Frame]:
        """All frames that wait, in order. `allow(size)` may refuse the next one, which stays in its slots: rate limits."""
        frames: list[Frame] = []
        while count := self.waiting():
            raw = bytes(self._memory[self._slots : self._slots + SLOTS * TX_SLOT])
            end = self.req_cons + count
            at = self.req_cons
            try:
                while at != end:
                    packet = self._gather(raw, at, end - at)
                    if not allow(packet.size):
                        return frames
                    at += packet.slots
                    self.req_cons = at & _MASK
                    frame = self._receive(packet)
                    if frame is not None:
                        frames.append(frame)
            except _Broken as broken:
                self.broken = str(broken)
                return frames
            self.await_request()
        return frames

    def _gather(self, raw: bytes, at: int, count: int) -> _Packet:
        """The slots of the packet at index `at`, of which `count` slots are there."""
        first = TX_REQUEST.unpack_from(raw, (at & SLOTS - 1) * TX_SLOT)
        packet = _Packet([first], [], 1, first[4])
        if first[2] & NETTXF_extra_info:
            more = True
            while more:
                if packet.slots >= count:
                    raise _Broken("an extra info is announced and is not there")
                slot = (at + packet.slots & SLOTS - 1) * TX_SLOT
                extra = raw[slot : slot + 8]
                if not 0 < extra[0] < XEN_NETIF_EXTRA_TYPE_MAX:
                    raise _Broken(f"an extra info has type {extra[0]}")
                packet.extras.append(extra)
                packet.slots += 1
                more = bool(extra[1] & XEN_NETIF_EXTRA_FLAG_MORE)
        last = first
        left = first[4]
        while last[2] & NETTXF_more_data:
            rest = len(packet.requests)
            if packet.slots >= count:
                raise _Broken(f"a packet's slot {rest + 1} is announced and is not there")
            if rest > _FATAL_SLOTS:
                raise _Broken(f"a packet has more than {_FATAL_SLOTS} slots")
            last = TX_REQUEST.unpack_from(raw, (at + packet.slots & SLOTS - 1) * TX_SLOT)
            packet.requests.append(last)
            packet.slots += 1
            if last[1] + last[4] > FRAME:
                raise _Broken(f"a slot of {last[4]} bytes at offset {last[1]} crosses its page")
            if rest > XEN_NETIF_NR_SLOTS_MIN:
                packet.unusable = f"more than {XEN_NETIF_NR_SLOTS_MIN} slots"
            elif last[4] > left:
                packet.unusable = f"slots of more than its {first[4]} bytes"
            left = max(0, left - last[4])
        if not packet.unusable:
            if first[1] + left > FRAME:
                raise _Broken(f"a slot of {left} bytes at offset {first[1]} crosses its page")
            packet.requests[0] = (*first[:4], left)
            if first[4] < ETHER:
                packet.unusable = f"{first[4]} bytes are no frame"
        return packet

    def _receive(self, packet: _Packet) -> Frame | None:
        """Answer a packet's slots and give its frame, if it has one."""
        gso = gso_type = 0
        for extra in packet.extras:
            kind = extra[0]
            if kind == XEN_NETIF_EXTRA_TYPE_GSO:
                _, _, gso, gso_type, _, _ = EXTRA_GSO.unpack(extra)
                if not gso or gso_type not in (XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6):
                    raise _Broken(f"GSO of type {gso_type}, segments of {gso} bytes")
            elif kind in (XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL):
                self._answer(packet, NETIF_RSP_OKAY if self._filter(kind, EXTRA_MCAST.unpack(extra)[2]) else NETIF_RSP_ERROR)
                return None
        if packet.unusable:
            self.refused = packet.unusable
            self._answer(packet, NETIF_RSP_ERROR)
            return None
        try:
            frames = self._grants.look([request[0] for request in packet.requests], False)
        except GrantError as bad:
            raise _Broken(str(bad)) from bad
        memory, parts = self._memory, []
        for mfn, (_gref, offset, _flags, _ident, size) in zip(frames, packet.requests, strict=True):
            start = mfn * FRAME + offset
            parts.append(memory[start : start + size])
        data = b"".join(parts)
        flags = packet.requests[0][2]
        self._answer(packet, NETIF_RSP_OKAY)
        return Frame(data, bool(flags & NETTXF_csum_blank), bool(flags & NETTXF_data_validated), gso, gso_type)

    def _filter(self, kind: int, address: bytes) -> bool:
        if kind == XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
            self.multicast.discard(address)
            return True
        if len(self.multicast) >= MAX_MULTICAST or not address[0] & 1:
            return False
        self.multicast.add(address)
        return True

    def _answer(self, packet: _Packet, status: int) -> None:
        if status:
            self.errors += 1
        statuses = [(request[3], status) for request in packet.requests]
        statuses[1:1] = [(0, NETIF_RSP_NULL)] * len(packet.extras)
        for ident, value in statuses:
            TX_RESPONSE.pack_into(self._memory, self._slots + (self.rsp_prod & SLOTS - 1) * TX_SLOT, ident, value)
            self.rsp_prod = self.rsp_prod + 1 & _MASK

    def slots(self) -> tuple[str, ...]:
        """Every slot as it reads now."""
        waiting, shown = self._awaiting(), []
        for index in range(SLOTS):
            slot = self._slot(index)
            if index in waiting:
                gref, offset, flags, ident, size = TX_REQUEST.unpack(slot)
                names = ", ".join(name for bit, name in _NAMES.items() if flags & bit)
                shown.append(f"send {ident}: {size} bytes at grant {gref}+{offset}" + (f", {names}" if names else ""))
            else:
                ident, status = TX_RESPONSE.unpack_from(slot)
                word = {NETIF_RSP_OKAY: "sent", NETIF_RSP_NULL: "extra"}.get(status, "failed")
                shown.append(f"answered {ident}: {word}" if any(slot) else "")
        return tuple(shown)

    def filter_text(self) -> tuple[str, ...]:
        return tuple(sorted(mac_text(address) for address in self.multicast))
