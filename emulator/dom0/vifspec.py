"""Network interfaces as xl.cfg's `vif = [ … ]` and network-attach give them (xl-network-configuration(5), parse_nic_config).

    mac=00:16:3e:01:02:03,bridge=net0,rate=10Mb/s@20ms,uplink=8000+in:2222=22

`uplink` is ours: the network has a host that gives out addresses (uplink=on), and lets this interface through to the services of the
host's loopback that are named (`services`). A network is there as soon as an interface is put on it. An address that is not given is
made from the domain's name, so that the same file gives the same guest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from emulator.dom0.cfgfile import printable
from emulator.dom0.network import Rate, mac_text
from emulator.dom0.network.services import Services, parse_services
from emulator.dom0.network.switch import NAME
from emulator.errors import UserError

MAX_SPEC: Final = 1024
MAX_VIFS: Final = 64
DEFAULT_BRIDGE: Final = "xenbr0"
DEFAULT_MTU: Final = 1500
MIN_MTU, MAX_MTU = 68, 65521
_XEN_OUI: Final = bytes.fromhex("00163e")
_RATE: Final = re.compile(r"(\d{1,10})([GMK]?)([Bb])/s(?:@(\d{1,10})([mu]?)s?)?", re.ASCII)
_SCALE: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
_DEFAULT_INTERVAL_US: Final = 50_000
_MAX_INTERVAL_US: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class VifSpec:
    """One interface of a domain; `devid` its number in xenstore; `text` as it was written."""

    devid: int
    mac: bytes
    bridge: str = DEFAULT_BRIDGE
    rate: Rate | None = None
    mtu: int = DEFAULT_MTU
    trusted: bool = True
    uplink: Services | None = None
    text: str = ""


def made_mac(domain: str, number: int) -> bytes:
    """An address of Xen's for a domain's interface, always the same; libxl's are random."""
    digest = hashlib.sha256(f"{domain}\0{number}".encode("utf-8", "surrogateescape")).digest()
    return _XEN_OUI + bytes((digest[0] & 0x7F,)) + digest[1:3]


def parse_vif(text: str, *, domain: str = "", number: int = -1, where: str = "") -> VifSpec:
    """One interface of domain `domain`. `number`: its place, -1 when it is to be given one (`devid` is -1 then). UserError `where: …`."""
    return _Reader(text, where).read(domain, number)


def parse_vifs(texts: Sequence[str], *, domain: str, where: str) -> tuple[VifSpec, ...]:
    """All of a domain's; no two may have the same number or address."""
    if len(texts) > MAX_VIFS:
        raise UserError(f"vif: {len(texts)} interfaces, {MAX_VIFS} are the most", where=where)
    vifs: list[VifSpec] = []
    for number, text in enumerate(texts):
        vif = parse_vif(text, domain=domain, number=number, where=where)
        for other in vifs:
            if other.devid == vif.devid:
                raise UserError(f"vif: devid {vif.devid} is there twice", where=where, fix="another devid=")
            if other.mac == vif.mac:
                raise UserError(f"vif: the address {mac_text(vif.mac)} is there twice", where=where, fix="another mac=")
        vifs.append(vif)
    return tuple(vifs)


def numbered(spec: VifSpec, domain: str, devid: int) -> VifSpec:
    """A spec parsed without a number, as interface `devid`."""
    mac = spec.mac if any(spec.mac) else made_mac(domain, devid)
    return replace(spec, devid=devid, mac=mac)


class _Reader:
    def __init__(self, text: str, where: str) -> None:
        self._text, self._where, self._at = text, where, 0
        self._set: dict[str, str] = {}
        self._places: dict[str, int] = {}

    def _fail(self, what: str, fix: str = "", key: str = "") -> NoReturn:
        at = self._places.get(key, self._at)
        raise UserError(f"vif '{printable(self._text, 60)}': character {at + 1}: {what}", where=self._where, fix=fix)

    def read(self, domain: str, number: int) -> VifSpec:
        text = self._text
        if len(text) > MAX_SPEC or not text.isprintable():
            self._fail("not printable" if len(text) <= MAX_SPEC else "too long")
        trusted = True
        while self._at < len(text):
            end = text.find(",", self._at)
            end = len(text) if end < 0 else end
            item = text[self._at : end]
            key, equals, value = item.strip().partition("=")
            if key in ("trusted", "untrusted") and not equals:
                trusted = key == "trusted"
            elif item.strip():
                self._take(key, equals, value.strip())
            self._at = end + 1
        given = self._set
        devid = self._number("devid", 0, MAX_VIFS - 1) if "devid" in given else number
        mac = self._mac() if "mac" in given else made_mac(domain, devid) if devid >= 0 else bytes(6)
        mtu = self._number("mtu", MIN_MTU, MAX_MTU) if "mtu" in given else DEFAULT_MTU
        bridge = given.get("bridge", DEFAULT_BRIDGE)
        if not NAME.fullmatch(bridge):
            self._fail(f"'{printable(bridge)}' will not do as a network's name", "1 to 15 letters and digits", "bridge")
        rate = self._rate() if "rate" in given else None
        uplink = self._uplink() if given.get("uplink", "off") != "off" else None
        return VifSpec(devid, mac, bridge, rate, mtu, trusted, uplink, text)

    def _take(self, key: str, equals: str, value: str) -> None:
        if not equals:
            self._fail(f"'{printable(key)}' is no setting", "key=value, parted by commas")
        if key == "type":
            if value != "vif":
                self._fail(f"type '{printable(value)}' is not offered", "vif")
        elif key == "backend":
            if value not in ("0", "Domain-0"):
                self._fail("networks come from Domain-0 alone", "leave backend= out")
        elif key in ("script", "gatewaydev", "netdev"):
            self._fail(f"{key}= has no meaning here: networks are bridges of our own", "bridge=")
        elif key in ("model", "ip", "vifname", "accel"):
            return  # of an emulated card, or for hotplug scripts
        elif key in ("mac", "bridge", "rate", "mtu", "devid", "uplink"):
            if key in self._set:
                self._fail(f"{key} is there twice")
            self._set[key] = value
            self._places[key] = self._at
        else:
            self._fail(f"unknown setting '{printable(key)}'", "mac, bridge, rate, mtu, devid, uplink")

    def _number(self, key: str, low: int, high: int) -> int:
        value = self._set[key]
        if not value.isascii() or not value.isdigit() or len(value) > 6 or not low <= int(value) <= high:
            self._fail(f"{key} '{printable(value)}' is not between {low} and {high}", key=key)
        return int(value)

    def _mac(self) -> bytes:
        value = self._set["mac"]
        if not re.fullmatch(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", value):
            self._fail(f"'{printable(value)}' is no address", "00:16:3e:xx:xx:xx", "mac")
        mac = bytes(int(part, 16) for part in value.split(":"))
        if mac[0] & 1 or not any(mac):
            self._fail(f"{value} is no interface's address: it is {'a group' if mac[0] & 1 else 'nobody'}'s", "00:16:3e:xx:xx:xx", "mac")
        return mac

    def _uplink(self) -> Services:
        value = self._set["uplink"]
        try:
            return parse_services("" if value == "on" else value)
        except UserError as bad:
            self._fail(f"uplink: {bad.what}", bad.fix, "uplink")

    def _rate(self) -> Rate:
        """xlu_vif_parse_rate."""
        value = self._set["rate"]
        match = _RATE.fullmatch(value)
        if match is None:
            self._fail(f"'{printable(value)}' is no rate", "10Mb/s, 250KB/s, 1MB/s@20ms", "rate")
        amount, scale, unit, interval, fraction = match.groups()
        per_second = int(amount) * _SCALE[scale] // (8 if unit == "b" else 1)
        interval_us = int(interval) * {"u": 1, "m": 1000, "": 1_000_000}[fraction] if interval else _DEFAULT_INTERVAL_US
        if not 0 < interval_us <= _MAX_INTERVAL_US:
            self._fail(f"an interval of {interval_us} µs", f"1us to {_MAX_INTERVAL_US}us", "rate")
        per_interval = per_second * interval_us // 1_000_000
        if not 0 < per_interval <= (1 << 32) - 1:
            self._fail(f"{per_interval} bytes an interval", "at least 1 and less than 4 GiB", "rate")
        return Rate(per_interval, interval_us)
