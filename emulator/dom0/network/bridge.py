"""A learning bridge (IEEE 802.1D without spanning tree): frames in, (port, frame) out. Pure: no guest, no thread, no clock.

A port is a number. A port that is given an address (a vif) may send from that address alone, so no guest can forge another's or
fill the table; other ports (the uplink) teach the bridge what they send from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from emulator.dom0.network.frame import ETHER, Frame

AGEING_NS: Final = 300 * 10**9
"""How long an address is remembered (802.1D's default)."""
MAX_ADDRESSES: Final = 4096
_LINK_LOCAL: Final = bytes.fromhex("0180c2000000")
_FORGED: Final = "from another's address"
_MALFORMED: Final = "too short"
_KEPT: Final = "for nobody else"
_ALONE: Final = "nobody else is there"


@dataclass(slots=True)
class PortCounters:
    """Frames and bytes that came in from the port, and what was not let through."""

    frames: int = 0
    bytes: int = 0
    forged: int = 0
    malformed: int = 0
    flooded: int = 0
    kept: int = 0
    """For the bridge alone, or for the port it came from."""

    def __add__(self, other: PortCounters) -> PortCounters:
        return PortCounters(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def drops(self) -> dict[str, int]:
        """What went nowhere, by the words of `Bridge.why`."""
        return {_FORGED: self.forged, _MALFORMED: self.malformed, _KEPT: self.kept}


@dataclass(slots=True)
class BridgePort:
    number: int
    mac: bytes | None
    counters: PortCounters


@dataclass(frozen=True, slots=True)
class Address:
    """One line of the bridge's table."""

    mac: bytes
    port: int
    fixed: bool
    age_ns: int


class Bridge:
    def __init__(self) -> None:
        self.ports: dict[int, BridgePort] = {}
        self._fixed: dict[bytes, list[int]] = {}
        self._learned: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # address -> port, when (ns); the oldest first
        self._next = 1
        self.why = ""
        """Why the last frame that `send` gave no ports went nowhere."""

    def attach(self, mac: bytes | None = None) -> int:
        """A new port; with `mac` it sends from that address alone. Two ports may have the same address: the later one is meant by it."""
        number, self._next = self._next, self._next + 1
        self.ports[number] = BridgePort(number, mac, PortCounters())
        if mac is not None:
            self._learned.pop(mac, None)
            self._fixed.setdefault(mac, []).append(number)
        return number

    def detach(self, number: int) -> None:
        port = self.ports.pop(number)
        if port.mac is not None:
            self._fixed[port.mac].remove(number)
            if not self._fixed[port.mac]:
                del self._fixed[port.mac]
        for mac in [mac for mac, (at, _) in self._learned.items() if at == number]:
            del self._learned[mac]

    def duplicates(self, mac: bytes) -> int:
        """How many ports have this address."""
        return len(self._fixed.get(mac, ()))

    def send(self, number: int, frame: Frame, now_ns: int) -> Sequence[int]:
        """The ports that a frame from port `number` goes to; none when it is dropped."""
        port = self.ports.get(number)
        if port is None:
            return ()
        counters, data = port.counters, frame.data
        if len(data) < ETHER:
            counters.malformed += 1
            return self._nowhere(_MALFORMED)
        destination, source = data[:6], data[6:12]
        if port.mac is not None:
            if source != port.mac:
                counters.forged += 1
                return self._nowhere(_FORGED)
        elif not self._learn(number, source, now_ns):
            counters.forged += 1
            return self._nowhere(_FORGED)
        counters.frames += 1
        counters.bytes += len(data)
        if destination[0] & 1:
            if destination[:5] == _LINK_LOCAL[:5] and destination[5] < 16:
                return self._keep(counters)  # pause, spanning tree, LLDP
            return self._flood(port)
        fixed = self._fixed.get(destination)
        if fixed:
            return (fixed[-1],) if fixed[-1] != number else self._keep(counters)
        known = self._learned.get(destination)
        if known is not None and now_ns - known[1] <= AGEING_NS:
            return (known[0],) if known[0] != number else self._keep(counters)
        return self._flood(port)

    def _nowhere(self, why: str) -> Sequence[int]:
        self.why = why
        return ()

    def _keep(self, counters: PortCounters) -> Sequence[int]:
        counters.kept += 1
        return self._nowhere(_KEPT)

    def _flood(self, port: BridgePort) -> Sequence[int]:
        port.counters.flooded += 1
        self.why = _ALONE
        return [other for other in self.ports if other != port.number]

    def _learn(self, number: int, source: bytes, now_ns: int) -> bool:
        if source[0] & 1 or source in self._fixed:
            return False
        self._learned.pop(source, None)
        if len(self._learned) >= MAX_ADDRESSES:
            self._learned.popitem(last=False)
        self._learned[source] = (number, now_ns)
        return True

    def addresses(self, now_ns: int) -> Iterator[Address]:
        """The table as it stands."""
        for mac, ports in self._fixed.items():
            yield Address(mac, ports[-1], True, 0)
        for mac, (port, when) in self._learned.items():
            if now_ns - when <= AGEING_NS:
                yield Address(mac, port, False, now_ns - when)
