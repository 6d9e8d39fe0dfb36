"""Named networks: each a bridge with what hangs on its ports, open to all threads.

A sender's worker asks the bridge where its frames go, under the network's lock, and hands each port its share after that: a guest's
port posts them to its mailbox, so that no worker ever touches another's domain. A port takes as much as it has room for; what it
does not take is dropped, and counted, as in any switch.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from emulator.dom0.network.alarms import Alarms
from emulator.dom0.network.bridge import Address, Bridge, PortCounters
from emulator.dom0.network.decode import SNAP
from emulator.dom0.network.frame import Frame
from emulator.dom0.network.services import Services
from emulator.dom0.network.uplink import UplinkSpec
from emulator.dom0.network.uplinkport import UplinkPort
from emulator.errors import UserError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
"""What a network may be called (Linux's bridges: 15 characters)."""
TAIL: Final = 512
"""The last frames that a network keeps the beginnings of."""


class Sink(Protocol):
    """What hangs on a port."""

    name: str

    def deliver(self, frames: list[Frame]) -> None:
        """Take frames, from any thread, without blocking."""


@dataclass(frozen=True)
class PortReport:
    number: int
    name: str
    mac: bytes | None
    counters: PortCounters


@dataclass(frozen=True)
class NetworkReport:
    """One network, for people. `frames`, `bytes`, `drops`: of all ports there ever were."""

    name: str
    ports: tuple[PortReport, ...]
    addresses: tuple[Address, ...]
    frames: int
    bytes: int
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that a network saw: its first bytes, its length, where it came from, and to which ports it went or why to none."""

    time_ns: int
    source: str
    data: bytes
    length: int
    targets: tuple[str, ...]
    why: str


class Network:
    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._bridge = Bridge()
        self._sinks: dict[int, Sink] = {}
        self._past = PortCounters()  # of ports that are gone
        self._tail: deque[tuple[int, int, bytes, int, Sequence[int] | str]] = deque(maxlen=TAIL)
        self._seen = 0

    def attach(self, sink: Sink, mac: bytes | None = None) -> int:
        """A port for `sink`; see Bridge.attach."""
        with self._lock:
            number = self._bridge.attach(mac)
            self._sinks[number] = sink
            return number

    def detach(self, number: int) -> None:
        with self._lock:
            self._past = self._past + self._bridge.ports[number].counters
            self._bridge.detach(number)
            del self._sinks[number]

    def shared(self, mac: bytes) -> bool:
        """Whether more than one port has this address."""
        with self._lock:
            return self._bridge.duplicates(mac) > 1

    def send(self, number: int, frames: Sequence[Frame]) -> None:
        """Frames from port `number`, in their order."""
        now = time.monotonic_ns()
        shares: dict[int, list[Frame]] = {}
        bridge, tail = self._bridge, self._tail
        with self._lock:
            for frame in frames:
                targets = bridge.send(number, frame, now)
                data = frame.data
                tail.append((now, number, data[:SNAP], len(data), targets or bridge.why))
                for target in targets:
                    shares.setdefault(target, []).append(frame)
            self._seen += len(frames)
            sinks = [(self._sinks[target], share) for target, share in shares.items()]
        for sink, share in sinks:
            sink.deliver(share)

    @property
    def empty(self) -> bool:
        return not self._sinks

    def report(self) -> NetworkReport:
        with self._lock:
            ports = tuple(PortReport(port.number, self._sinks[port.number].name, port.mac, port.counters) for port in self._bridge.ports.values())
            addresses = tuple(self._bridge.addresses(time.monotonic_ns()))
            total = sum((port.counters for port in ports), self._past)
        return NetworkReport(self.name, ports, addresses, total.frames, total.bytes, total.drops())

    def tail(self, since: int, most: int) -> tuple[list[Seen], int]:
        """The last frames that came after number `since`, `most` of them at the most, and the number of the newest."""
        with self._lock:
            wanted = max(0, min(most, self._seen - since, len(self._tail)))
            kept = list(self._tail)[len(self._tail) - wanted :]
            names = {number: sink.name for number, sink in self._sinks.items()}
            seen = self._seen
        epoch = time.time_ns() - time.monotonic_ns()
        frames = []
        for when, number, data, length, fate in kept:
            targets, why = ((), fate) if isinstance(fate, str) else (tuple(names.get(target, "gone") for target in fate), "")
            frames.append(Seen(when + epoch, names.get(number, "gone"), data, length, targets, why))
        return frames, seen


class Networks:
    """All networks of the host, by name; one is there as soon as something is put on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._networks: dict[str, Network] = {}
        self.alarms = Alarms()
        self._uplinking = threading.Lock()
        self.uplinks: dict[str, UplinkPort] = {}

    def get(self, name: str) -> Network:
        with self._lock:
            network = self._networks.get(name)
            if network is None:
                network = self._networks[name] = Network(name)
            return network

    def has(self, name: str) -> bool:
        return name in self._networks

    def names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._networks)

    def set_uplink(self, name: str, spec: UplinkSpec | None) -> None:
        """Give a network an uplink, or with None take it away. Raises UserError."""
        if not NAME.fullmatch(name):
            raise UserError(f"{ascii(name)[:40]} will not do as a network's name", fix="1 to 15 letters and digits")
        if spec is None and not self.has(name):
            raise UserError(f"no network {name}", why=f"there are: {', '.join(self.names()) or 'none'}")
        if spec is not None and (nobody := next((one for one in spec.services.inward if not one.guest), None)) is not None:
            raise UserError(f"in:{nobody.port}: a guest must be named", fix=f"in:{nobody.port}=NAME:{nobody.guest_port}")
        network = self.get(name)
        with self._uplinking:
            present = self.uplinks.get(name)
            if spec is None:
                if present is not None:
                    del self.uplinks[name]
                    present.close()
            elif present is None:
                self.uplinks[name] = UplinkPort(network, spec)
            else:
                try:
                    self.uplinks[name] = present.replaced(spec)
                except UserError:
                    if present.closed:
                        del self.uplinks[name]
                        self.uplinks[name] = present.reopened()
                    raise

    def grant(self, name: str, mac: bytes, services: Services) -> None:
        """Let the interface `mac` through to services of the host; its network gets an uplink if it has none. Raises UserError."""
        with self._uplinking:
            present = self.uplinks.get(name)
            port = present or UplinkPort(self.get(name), UplinkSpec())
            try:
                port.grant(mac, services)
            except UserError:
                if present is None:
                    port.close()
                raise
            self.uplinks[name] = port

    def left(self, name: str, mac: bytes) -> None:
        """The interface is gone: its network's uplink forgets what it was granted and had open."""
        with self._uplinking:
            if name in self.uplinks:
                self.uplinks[name].left(mac)

    def reports(self) -> tuple[NetworkReport, ...]:
        with self._lock:
            networks = tuple(self._networks.values())
        return tuple(network.report() for network in networks)

    def close(self) -> None:
        self.alarms.close()
        for uplink in self.uplinks.values():
            uplink.close()
        self.uplinks.clear()
