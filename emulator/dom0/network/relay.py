"""Connections of guests to services of the host's loopback, and back: one thread that owns all of them and every socket.

Frames come from the senders' threads through `post`; what is for guests goes out by `send`, as any port's frames do, so that it reaches a
guest as a message of its log. A guest has TCP's other end here (`tcp.TcpEnd`), the service an ordinary connection. Flows are bounded, in all
and for each interface; a guest's addresses are part of a flow's key, so none can speak on another's.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from emulator.dom0.network import packets
from emulator.dom0.network.flows import Flow, Key, TcpFlow, UdpFlow
from emulator.dom0.network.frame import Frame
from emulator.dom0.network.segment import SYN
from emulator.dom0.network.services import Forward, Service
from emulator.errors import UserError

MAX_FLOWS: Final = 256
MAX_FLOWS_EACH: Final = 64
"""Of one interface."""
MAX_INBOX: Final = 1024
"""Frames that wait for the thread."""
LOOPBACK: Final = ("127.0.0.1", "::1")
_EPHEMERAL: Final = 49152
_FOREVER_NS: Final = 1 << 62


Resolve = Callable[[bytes | None, str], tuple[bytes, bytes] | None]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet of a guest for one of the services, or of one of the flows."""

    mac: bytes
    packet: packets.Ip


@dataclass(slots=True)
class RelayCounters:
    refused: int = 0
    dropped: int = 0


class Relay:
    """`resolve(owner, guest)`: the interface's and the IP address of the guest that a forward names. `send`: frames for the network."""

    def __init__(self, gateway: bytes, send: Callable[[list[Frame]], None], resolve: Resolve) -> None:
        self.gateway, self._send, self._resolve = gateway, send, resolve
        self.services: Mapping[tuple[bytes | None, str, int], Service] = {}
        self.counters = RelayCounters()
        self.flows: dict[Key, Flow] = {}
        self.used: dict[tuple[bytes | None, str, int], int] = {}  # flows of each service and forward since the start
        self._inbox: deque[Arrival] = deque()
        self._leaving: deque[bytes] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listeners: dict[tuple[bytes | None, Forward], socket.socket] = {}
        self._listening, self._ringing = threading.Lock(), threading.Lock()
        self._out: list[Frame] = []
        self._touched: dict[Key, Flow] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="network-relay", daemon=True)
        self._thread.start()

    # --- any thread ------------------------------------------------------------------------------------------------------------

    def serves(self, mac: bytes, protocol: str, port: int) -> Service | None:
        return self.services.get((mac, protocol, port)) or self.services.get((None, protocol, port))

    def post(self, arrival: Arrival) -> None:
        if len(self._inbox) >= MAX_INBOX:
            self.counters.dropped += 1
            return
        self._inbox.append(arrival)
        self._ring()

    def _ring(self) -> None:
        with self._ringing:
            if self._bell >= 0:  # a frame may have been on its way when the uplink went
                os.eventfd_write(self._bell, 1)

    def listen(self, owner: bytes | None, forwards: tuple[Forward, ...]) -> None:
        """Have these ports of the loopback lead to guests. All or none: UserError."""
        made = []
        with self._listening:
            try:
                for forward in forwards:
                    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    made.append((forward, listener))
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((LOOPBACK[0], forward.port))
                    listener.listen(16)
            except OSError as bad:
                for _, listener in made:
                    listener.close()
                raise UserError(f"port {made[-1][0].port} of the loopback cannot be had", why=bad.strerror or str(bad), fix="another port") from bad
            for forward, listener in made:
                self._listeners[owner, forward] = listener
                self._selector.register(listener, selectors.EVENT_READ, (owner, forward, listener))
        self._ring()

    def hush(self, owner: bytes | None) -> None:
        """Listen no more for `owner`."""
        with self._listening:
            for key in [key for key in self._listeners if key[0] == owner]:
                listener = self._listeners.pop(key)
                self._selector.unregister(listener)
                listener.close()

    def leave(self, mac: bytes) -> None:
        """The interface is gone: so is all that it had open."""
        self._leaving.append(mac)
        self._ring()

    def forwards(self) -> tuple[tuple[bytes | None, Forward], ...]:
        with self._listening:
            return tuple(self._listeners)

    def close(self) -> None:
        self._stopping = True
        self._ring()
        self._thread.join(5)

    # --- its own thread --------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        due = _FOREVER_NS
        while not self._stopping:
            wait = None if due == _FOREVER_NS else max(0, due - time.monotonic_ns()) / 1e9
            for key, mask in self._selector.select(wait):
                self._ready(key, mask)
            now = time.monotonic_ns()
            for _ in range(len(self._inbox)):
                self._arrived(self._inbox.popleft(), now)
            while self._leaving:
                self._drop(self._leaving.popleft())
            for flow in [one for one in self.flows.values() if one.due <= now]:
                self._touched[flow.key] = flow
            touched, self._touched = self._touched, {}
            for flow in touched.values():
                self._settle(flow, now)
            out, self._out = self._out, []
            if out:
                self._send(out)
            due = min((flow.due for flow in self.flows.values()), default=_FOREVER_NS)
        for flow in self.flows.values():
            flow.close()
        for listener in self._listeners.values():
            listener.close()
        self._selector.close()
        with self._ringing:
            os.close(self._bell)
            self._bell = -1

    def _ready(self, key: selectors.SelectorKey, mask: int) -> None:
        if key.fileobj == self._bell:
            os.eventfd_read(self._bell)
        elif isinstance(key.data, tuple):
            self._accept(*key.data)
        else:
            flow: Flow = key.data
            flow.ready(mask)
            self._touched[flow.key] = flow

    def _settle(self, flow: Flow, now: int) -> None:
        """What has become of a flow: frames to send, what its socket waits for, its end."""
        self._out += flow.advance(now)
        self._watch(flow)
        if flow.over:
            self.flows.pop(flow.key, None)
            flow.close()

    def _drop(self, mac: bytes) -> None:
        for key in [key for key in self.flows if key.mac == mac]:
            flow = self.flows.pop(key)
            self._touched.pop(key, None)
            if flow.watched[0] is not None and flow.watched[1]:
                self._selector.unregister(flow.watched[0])
            flow.close()

    def _watch(self, flow: Flow) -> None:
        wanted = 0 if flow.over else flow.interest
        if flow.sock is not flow.watched[0] or wanted != flow.watched[1]:
            was, events = flow.watched
            if was is not None and events:
                self._selector.unregister(was)
            if flow.sock is not None and wanted:
                self._selector.register(flow.sock, wanted, flow)
            flow.watched = flow.sock, wanted
            flow.drop_stale(was)

    def _room(self, mac: bytes) -> bool:
        mine = sum([1 for key in self.flows if key.mac == mac])
        if len(self.flows) < MAX_FLOWS and mine < MAX_FLOWS_EACH:
            return True
        self.counters.refused += 1
        return False

    def _arrived(self, arrival: Arrival, now: int) -> None:
        mac, packet = arrival.mac, arrival.packet
        protocol = "tcp" if packet.protocol == packets.TCP else "udp"
        ports = packets.read_ports(packet)
        if ports is None:
            return
        key = Key(protocol, mac, packet.source, *ports)
        flow = self.flows.get(key)
        if flow is None:
            flow = self._new_flow(key, packet, now)
            if flow is None:
                return
            self.flows[key] = flow
        else:
            flow.arrived(packet, now)
        self._touched[key] = flow

    def _new_flow(self, key: Key, packet: packets.Ip, now: int) -> Flow | None:
        service = self.serves(key.mac, key.protocol, key.port)
        if key.protocol == "udp":
            if service is None or not self._room(key.mac):
                return None
            try:
                flow: Flow = UdpFlow(key, self.gateway, service.host_port, now)
            except OSError:  # the host has no more sockets
                self.counters.refused += 1
                return None
            flow.arrived(packet, now)
        else:
            segment = packets.read_tcp(packet)
            if service is None or segment is None or segment.flags & 0x17 != SYN or not self._room(key.mac):
                answer = packets.reset(packet)
                if answer:
                    self._out.append(Frame(packets.ethernet(key.mac, packets.UPLINK_MAC, packets.IPV4, answer), validated=True))
                return None
            flow = TcpFlow.outward(key, self.gateway, service.host_port, segment, now)
        owner = key.mac if (key.mac, key.protocol, key.port) in self.services else None
        self.used[owner, key.protocol, key.port] = self.used.get((owner, key.protocol, key.port), 0) + 1
        return flow

    def _accept(self, owner: bytes | None, forward: Forward, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it is gone again, or the listener is
        found = self._resolve(owner, forward.guest)
        if found is None or not self._room(found[0]):
            self.counters.refused += 1
            client.close()
            return
        client.setblocking(False)
        mac, address = found
        taken = {key.port for key in self.flows if (key.mac, key.guest, key.guest_port) == (mac, address, forward.guest_port)}
        port = next(port for port in range(_EPHEMERAL + secrets.randbelow(8192), 65536) if port not in taken)
        key = Key("tcp", mac, address, forward.guest_port, port)
        flow = TcpFlow.inward(key, self.gateway, client, forward.port, time.monotonic_ns())
        self.used[owner, "in", forward.port] = self.used.get((owner, "in", forward.port), 0) + 1
        self.flows[key] = self._touched[key] = flow
