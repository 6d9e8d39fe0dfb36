"""One connection, or one exchange of datagrams, between a guest and a service of the host's loopback. For the relay's thread alone."""

from __future__ import annotations

import selectors
import socket
import struct
from typing import Final, NamedTuple, Protocol

from emulator.dom0.network import packets
from emulator.dom0.network.frame import Frame, ones_sum
from emulator.dom0.network.segment import SYN, Segment, new_isn
from emulator.dom0.network.tcp import TcpEnd

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_UDP_IDLE_NS: Final = 60 * 10**9
_CONNECT_NS: Final = 10 * 10**9
_LINGER_NS: Final = 10**9
_MTU: Final = 1500
_CHUNK: Final = 1 << 16
_GSO_TCPV4: Final = 1  # XEN_NETIF_GSO_TYPE_TCPV4


class Key(NamedTuple):
    """`guest`: its IP address; `port`: at the uplink's."""

    protocol: str
    mac: bytes
    guest: bytes
    guest_port: int
    port: int


class Flow(Protocol):
    key: Key
    sock: socket.socket | None
    host_port: int
    began: int
    to_host: int
    to_guest: int
    watched: tuple[socket.socket | None, int]
    due: int
    """When `advance` is to be called without anything having happened; ns."""

    @property
    def over(self) -> bool: ...
    @property
    def interest(self) -> int:
        """Selector events that its socket waits for."""

    @property
    def state(self) -> str: ...
    @property
    def retransmits(self) -> int: ...
    def arrived(self, packet: packets.Ip, now: int) -> None: ...
    def ready(self, mask: int) -> None: ...
    def advance(self, now: int) -> list[Frame]:
        """Frames for the guest."""

    def drop_stale(self, was: socket.socket | None) -> None:
        """The selector has let go of a socket."""

    def close(self) -> None: ...


class _Base:
    def __init__(self, key: Key, gateway: bytes, host_port: int, now: int) -> None:
        self.key, self.gateway, self.host_port, self.began = key, gateway, host_port, now
        self.sock: socket.socket | None = None
        self.watched: tuple[socket.socket | None, int] = (None, 0)
        self.to_host = self.to_guest = 0
        self.due = now

    def drop_stale(self, was: socket.socket | None) -> None:
        if was is not None and was is not self.sock:
            was.close()

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()

    def _frame(self, packet: bytes, gso: int = 0, blank: bool = False) -> Frame:
        data = packets.ethernet(self.key.mac, packets.UPLINK_MAC, packets.IPV4, packet)
        return Frame(data, blank, True, gso, _GSO_TCPV4 if gso else 0)


class TcpFlow(_Base):
    """A guest's TCP connection and the host's. Outward: the service is connected to first, so that the guest sees a refusal as one."""

    def __init__(self, key: Key, gateway: bytes, host_port: int, now: int) -> None:
        super().__init__(key, gateway, host_port, now)
        self.end: TcpEnd | None = None
        self._syn: Segment | None = None
        self._tries = list(_LOOPBACK)
        self._connecting = False
        self._host_ended = self._shut = False
        self._refused = False
        self._now = now

    @classmethod
    def outward(cls, key: Key, gateway: bytes, host_port: int, syn: Segment, now: int) -> TcpFlow:
        flow = cls(key, gateway, host_port, now)
        flow._syn = syn
        flow._connect()
        return flow

    @classmethod
    def inward(cls, key: Key, gateway: bytes, client: socket.socket, host_port: int, now: int) -> TcpFlow:
        flow = cls(key, gateway, host_port, now)
        flow.sock = client
        flow.end = TcpEnd.call(new_isn(), now)
        return flow

    def _connect(self) -> None:
        """To the next of the loopback's addresses."""
        self._connecting = True
        while self._tries:
            family, address = self._tries.pop(0)
            try:
                made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError:
                continue  # no such family here
            try:
                made.connect((address, self.host_port))
            except BlockingIOError:
                pass  # under way
            except OSError:
                made.close()
                continue
            self.sock = made
            return
        self._refused = True

    def arrived(self, packet: packets.Ip, now: int) -> None:
        segment = packets.read_tcp(packet)
        if segment is not None and self.end is not None:
            self.end.receive(segment, now)

    def ready(self, mask: int) -> None:
        assert self.sock is not None
        if self._connecting:
            if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._connect()
            return
        if mask & READ and self.end is not None and self.end.room and not self._host_ended:
            try:
                data = self.sock.recv(min(_CHUNK, self.end.room))
            except BlockingIOError:
                return
            except OSError:
                self._host_ended = True
                self.end.abort("reset by the service")
                return
            self.to_guest += len(data)
            if data:
                self.end.write(data)
            else:
                self._host_ended = True
                self.end.close()

    @property
    def interest(self) -> int:
        if self._connecting:
            return WRITE
        if self.end is None:
            return 0
        return (READ if self.end.room and not self._host_ended else 0) | (WRITE if len(self.end.waiting) and not self._shut else 0)

    def advance(self, now: int) -> list[Frame]:
        if self._connecting and not self._refused:
            self._settle_connection(now)
        if self._refused:
            return self._refuse()
        end = self.end
        if end is None:
            self.due = self.began + _CONNECT_NS
            return []
        end.tick(now)
        self._write_host(end)
        frames = [self._segment(one) for one in end.output(now)]
        self.due = end.deadline if not end.done else now + _LINGER_NS  # until the service has read the rest
        return frames

    def _settle_connection(self, now: int) -> None:
        assert self.sock is not None and self._syn is not None
        try:
            self.sock.getpeername()
        except OSError:
            self._refused = now - self.began > _CONNECT_NS
            return
        self._connecting = False
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.end = TcpEnd.answer(self._syn, new_isn(), now)

    def _refuse(self) -> list[Frame]:
        assert self._syn is not None
        refusal = Segment(0, self._syn.sequence + 1 & 0xFFFFFFFF, 0x14, 0)
        return [self._segment(refusal)]

    def _write_host(self, end: TcpEnd) -> None:
        assert self.sock is not None
        sent = 0
        with end.waiting as waiting:
            try:
                while sent < len(waiting) and not self._shut:
                    sent += self.sock.send(waiting[sent : sent + _CHUNK])
            except BlockingIOError:
                pass  # its buffer is full: `interest` waits for room
            except OSError:
                self._shut = True
        self.to_host += sent
        end.take(sent)
        if self._shut and not end.eof:
            end.abort("reset by the service")
        if end.eof and not len(end.waiting) and not self._shut:
            self._shut = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._host_ended = True  # it went first

    def _segment(self, one: Segment) -> Frame:
        key, options = self.key, b""
        if one.flags & SYN:
            options = struct.pack(">BBH", 2, 4, one.mss) + (struct.pack(">BBBB", 3, 3, one.scale, 0) if one.scale >= 0 else b"")
        offset = 5 + len(options) // 4 << 4
        head = struct.pack(">HHIIBBHHH", key.port, key.guest_port, one.sequence, one.acknowledged, offset, one.flags, one.window, 0, 0)
        size = len(head) + len(options) + len(one.payload)
        pseudo = ones_sum(self.gateway + key.guest, packets.TCP + size) % 0xFFFF  # the frontend, or `complete`, adds the rest
        body = head[:16] + pseudo.to_bytes(2, "big") + head[18:] + options + one.payload
        mss = self.end.mss if self.end is not None else 0
        return self._frame(packets.ip(packets.TCP, self.gateway, key.guest, body), mss if len(one.payload) > mss else 0, blank=True)

    @property
    def over(self) -> bool:
        return self._refused or (self.end is not None and self.end.done and (bool(self.end.reset) or self._shut or not len(self.end.waiting)))

    @property
    def state(self) -> str:
        return self.end.state if self.end is not None else "SYN_RECEIVED"

    @property
    def retransmits(self) -> int:
        return self.end.retransmits if self.end is not None else 0


class UdpFlow(_Base):
    """A guest's datagrams to one service and its answers; forgotten when there were none for a minute."""

    retransmits = 0
    state = ""

    def __init__(self, key: Key, gateway: bytes, host_port: int, now: int) -> None:
        super().__init__(key, gateway, host_port, now)
        self._answers: list[bytes] = []
        self._last = now
        self.dropped = 0
        self.over = False
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.connect(("127.0.0.1", host_port))

    @property
    def interest(self) -> int:
        return READ

    def arrived(self, packet: packets.Ip, now: int) -> None:
        datagram = packets.read_udp(packet)
        if datagram is None or self.sock is None:
            return
        self._last = now
        try:
            self.to_host += self.sock.send(datagram[2])
        except OSError:
            self.dropped += 1  # nobody listens, or there is no room

    def ready(self, mask: int) -> None:
        assert self.sock is not None
        try:
            while len(self._answers) < 64:
                self._answers.append(self.sock.recv(_CHUNK))
        except OSError:
            return  # no more

    def advance(self, now: int) -> list[Frame]:
        answers, self._answers = self._answers, []
        if answers:
            self._last = now
        self.due = self._last + _UDP_IDLE_NS
        self.over = now >= self.due
        key, frames = self.key, []
        for payload in answers:
            if len(payload) + 28 > _MTU:
                self.dropped += 1
                continue
            self.to_guest += len(payload)
            frames.append(self._frame(packets.udp(self.gateway, key.port, key.guest, key.guest_port, payload)))
        return frames
