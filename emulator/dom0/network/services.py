"""What an uplink lets through, as a person writes it: services of the host's loopback for guests, ports of it that lead to a guest.

    8000            TCP port 8000 of the uplink's address is port 8000 of the host's loopback (tcp:8000 says the same)
    tcp:80=8000     port 80 is port 8000 of the host
    udp:5353        datagrams
    in:2222=web:22  TCP port 2222 of the host's loopback is port 22 of the guest that calls itself web, or has that address

Several are parted by spaces or by +. Nothing but the loopback is ever connected to or listened on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from emulator.errors import UserError

MAX_SERVICES: Final = 32
_OUTWARD: Final = re.compile(r"(?:(tcp|udp):)?(\d{1,5})(?:=(\d{1,5}))?", re.ASCII)
_INWARD: Final = re.compile(r"in:(\d{1,5})=(?:([A-Za-z0-9.-]{0,63}):)?(\d{1,5})", re.ASCII)
_OURS: Final = {("udp", 53), ("udp", 67)}


@dataclass(frozen=True, slots=True)
class Service:
    """`port` of the uplink's address leads to `host_port` of the loopback."""

    protocol: str
    port: int
    host_port: int


@dataclass(frozen=True, slots=True)
class Forward:
    """TCP `port` of the loopback leads to `guest_port` of `guest`: a name, an address, or "" for the interface it was given to."""

    port: int
    guest: str
    guest_port: int


@dataclass(frozen=True, slots=True)
class Services:
    outward: tuple[Service, ...] = ()
    inward: tuple[Forward, ...] = ()


def parse_services(text: str) -> Services:
    """Raises UserError."""
    outward: list[Service] = []
    inward: list[Forward] = []
    for item in re.split(r"[\s+]+", text.strip()) if text.strip() else []:
        if match := _INWARD.fullmatch(item):
            inward.append(Forward(_port(match[1], item), match[2] or "", _port(match[3], item)))
        elif match := _OUTWARD.fullmatch(item):
            service = Service(match[1] or "tcp", _port(match[2], item), _port(match[3] or match[2], item))
            if (service.protocol, service.port) in _OURS:
                raise UserError(f"{item}: the uplink answers {service.protocol} port {service.port} itself", fix=f"udp:PORT={service.port}")
            outward.append(service)
        else:
            raise UserError(f"{ascii(item)[1:-1][:40]} is no service", fix="8000, tcp:80=8000, udp:5353 or in:2222=web:22")
    for kind, ports in (("", [(one.protocol, one.port) for one in outward]), ("in:", [("tcp", one.port) for one in inward])):
        for protocol, port in ports:
            if ports.count((protocol, port)) > 1:
                raise UserError(f"{kind or protocol + ':'}{port} is there twice")
    if len(outward) + len(inward) > MAX_SERVICES:
        raise UserError(f"{len(outward) + len(inward)} services, {MAX_SERVICES} are the most")
    return Services(tuple(outward), tuple(inward))


def _port(digits: str, item: str) -> int:
    number = int(digits)
    if not 0 < number < 65536:
        raise UserError(f"{item}: no port {number}", fix="1 to 65535")
    return number
