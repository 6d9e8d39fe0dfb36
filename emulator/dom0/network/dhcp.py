"""A DHCP server as a state machine (RFC 2131): one lease an address of an interface, packets in, packets out."""

from __future__ import annotations

import ipaddress
import itertools
import re
import struct
from dataclasses import dataclass
from typing import Final

LEASE_SECONDS: Final = 86400
_HEAD: Final = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _DECLINE, _ACK, _NAK, _RELEASE, _INFORM = range(1, 9)
_NAME: Final = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """`to`: where it goes; all ones when the client has no address yet."""

    payload: bytes
    to: bytes


class DhcpServer:
    """For the hosts of `network`: its first host address is `gateway`, ours."""

    def __init__(self, network: ipaddress.IPv4Network, domain: str) -> None:
        self._network, self._domain = network, domain
        hosts = [address.packed for address in itertools.islice(network.hosts(), 255)]
        self.gateway, self._pool = hosts[0], hosts[1:]
        self.leases: dict[bytes, bytes] = {}  # interface's address -> IP address
        self.names: dict[str, bytes] = {}  # host name -> interface's address; the first to take it, and one each
        self._gone: dict[bytes, None] = {}  # interfaces that left, the longest ago first: they keep all until others want it

    def receive(self, mac: bytes, payload: bytes) -> Answer | None:
        """A packet to port 67 from the interface `mac`, which speaks for itself alone."""
        if len(payload) < _HEAD.size:
            return None
        op, kind, size, _, xid, _, flags, client, _, _, relay, hardware, _, _, cookie = _HEAD.unpack_from(payload)
        if (op, kind, size, cookie) != (1, 1, 6, _COOKIE) or hardware[:6] != mac or any(relay):
            return None
        options = _read_options(payload[_HEAD.size :])
        wanted = options.get(53, b"")
        if len(wanted) != 1:
            return None
        return self._answer(wanted[0], mac, options, (xid, flags, client))

    def left(self, mac: bytes) -> None:
        """The interface is gone; it may come again."""
        if mac in self.leases:
            self._gone.pop(mac, None)
            self._gone[mac] = None

    def _answer(self, wanted: int, mac: bytes, options: dict[int, bytes], head: tuple[int, int, bytes]) -> Answer | None:
        xid, flags, client = head
        server = options.get(54)
        if server is not None and server != self.gateway:
            return None
        if wanted == _RELEASE:
            if self.leases.get(mac) == client:
                self._drop(mac)
            return None
        if wanted == _INFORM:
            return Answer(self._packet(_ACK, mac, xid, flags, client, bytes(4)), client)
        if wanted not in (_DISCOVER, _REQUEST):
            return None
        asked = options.get(50, client if any(client) else b"")
        address = self._lease(mac, asked)
        if address is None:
            return None
        if wanted == _REQUEST and asked != address:
            return Answer(self._packet(_NAK, mac, xid, flags, bytes(4), bytes(4)), b"\xff" * 4)
        if wanted == _REQUEST:
            self._take_name(mac, options.get(12, b""))
        return Answer(self._packet(_OFFER if wanted == _DISCOVER else _ACK, mac, xid, flags, client, address), client if any(client) else b"\xff" * 4)

    def _lease(self, mac: bytes, asked: bytes) -> bytes | None:
        """The address of `mac`: what it has, what it asks for if that is free, else the next free one."""
        self._gone.pop(mac, None)
        if mac not in self.leases:
            taken = set(self.leases.values())
            free = [address for address in self._pool if address not in taken]
            if not free and self._gone:
                oldest = next(iter(self._gone))
                free = [self.leases[oldest]]
                self._drop(oldest)
            if not free:
                return None
            self.leases[mac] = asked if asked in free else free[0]
        return self.leases[mac]

    def _take_name(self, mac: bytes, name: bytes) -> None:
        wanted = name.decode("ascii", "replace").lower()
        if _NAME.fullmatch(name) and self.names.get(wanted, mac) == mac:
            self._drop_name(mac)
            self.names[wanted] = mac

    def _drop(self, mac: bytes) -> None:
        del self.leases[mac]
        self._gone.pop(mac, None)
        self._drop_name(mac)

    def _drop_name(self, mac: bytes) -> None:
        for name in [name for name, owner in self.names.items() if owner == mac]:
            del self.names[name]

    def _packet(self, kind: int, mac: bytes, xid: int, flags: int, client: bytes, address: bytes) -> bytes:
        head = _HEAD.pack(2, 1, 6, 0, xid, 0, flags, client, address, self.gateway, bytes(4), mac, b"", b"", _COOKIE)
        options = [(53, bytes([kind])), (54, self.gateway)]
        if kind != _NAK:
            if any(address):
                options.append((51, struct.pack(">I", LEASE_SECONDS)))
            options += [(1, self._network.netmask.packed), (3, self.gateway), (6, self.gateway), (15, self._domain.encode())]
        return (head + b"".join(bytes([code, len(value)]) + value for code, value in options) + b"\xff").ljust(300, b"\0")


def _read_options(data: bytes) -> dict[int, bytes]:
    """The first of each kind, as far as they can be read."""
    options: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            break
        options.setdefault(data[at], data[at + 2 : at + 2 + data[at + 1]])
        at += 2 + data[at + 1]
    return options
