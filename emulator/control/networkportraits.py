"""Views of the networks, from counters that any thread may read: no domain is asked, so that a screen costs no guest a moment."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from emulator.abi.xenbus import state_name
from emulator.control.networkviews import (
    AddressView,
    BridgePortView,
    CaptureView,
    DropView,
    FlowView,
    ForwardView,
    LeaseView,
    NetworksView,
    NetworkView,
    PacketTail,
    PacketView,
    UplinkView,
    VifView,
)
from emulator.dom0.backends.net.device import Vif
from emulator.dom0.guest import Guest
from emulator.dom0.network import Capture, NetworkReport, Networks, mac_text
from emulator.dom0.network.decode import one_line
from emulator.dom0.network.switch import Seen
from emulator.dom0.network.uplink import Uplink
from emulator.errors import UserError

_Sample = tuple[int, tuple[int, ...]]  # when (ns), the counters
_PERIOD_NS = 1_000_000_000
MAX_PACKETS = 512


class Meter:
    """Rates of counters that grow: against what they were one to two seconds ago, as far as somebody looked then."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[_Sample, _Sample]] = {}

    def rates(self, name: str, now_ns: int, values: Mapping[str, int]) -> dict[str, Any]:
        """Of each value, a second, as `<its name>_rate`; zeros at the first look."""
        present = now_ns, tuple(values.values())
        older, newer = self._kept.get(name, (present, present))
        if now_ns - newer[0] >= _PERIOD_NS:
            older, newer = newer, present
        self._kept[name] = older, newer
        passed = now_ns - older[0]
        grown = zip(values.items(), older[1], strict=True)
        return {f"{key}_rate": (value - then) * 1e9 / passed if passed else 0.0 for (key, value), then in grown}

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others."""
        wanted = set(names)
        self._kept = {name: kept for name, kept in self._kept.items() if name in wanted}


class Networkscape:
    """The host's networks as views. For one thread at a time."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._meter = Meter()

    def view(self, guests: Iterable[Guest]) -> NetworksView:
        now = time.monotonic_ns()
        uplinks = {name: port.uplink for name, port in tuple(self._networks.uplinks.items())}
        vifs = tuple(self._vif(guest, vif, uplinks.get(vif.spec.bridge), now) for guest in guests for vif in tuple(guest.vifs.devices.values()))
        networks = tuple(self._network(report, uplinks.get(report.name), now) for report in self._networks.reports())
        self._meter.keep([vif.name for vif in vifs] + [f"/{network.name}" for network in networks])
        return NetworksView(networks, vifs)

    def _vif(self, guest: Guest, vif: Vif, uplink: Uplink | None, now: int) -> VifView:
        spec, counters, shake = vif.spec, vif.counters, vif.handshake
        counts: dict[str, Any] = {key: getattr(counters, key) for key in ("tx_frames", "tx_bytes", "rx_frames", "rx_bytes")}
        rates = self._meter.rates(vif.name, now, counts)
        leased = uplink.dhcp.leases.get(spec.mac) if uplink is not None else None
        bucket = vif.bucket
        drops = dict(counters.drops)
        if counters.tx_errors:
            drops["sent wrong" + (f": {vif.refused}" if vif.refused else "")] = counters.tx_errors
        return VifView(
            guest.domid, spec.devid, vif.name, guest.name, spec.bridge, mac_text(spec.mac), _dotted(leased) if leased else "", spec.mtu,
            state_name(shake.state), state_name(shake.frontend), len(vif.queues), **counts, **rates, drops=_drops(drops),
            waiting=vif.queued, limit=bucket.rate.bytes_per_second if bucket is not None else 0,
            throttled=vif.throttled, throttles=bucket.waits if bucket is not None else 0,
            multicast=len(vif.multicast) if vif.abilities.multicast_control else -1, capture=_capture(vif.capture),
            waited=counters.waited, wait_ns=counters.wait_ns, alarm=_alarm(vif),
        )  # fmt: skip

    def _network(self, report: NetworkReport, uplink: Uplink | None, now: int) -> NetworkView:
        names = {port.number: port.name for port in report.ports}
        ports = tuple(BridgePortView(port.number, port.name, mac_text(port.mac) if port.mac else "", port.counters.frames, port.counters.bytes,
                                     port.counters.flooded, _drops(port.counters.drops())) for port in report.ports)  # fmt: skip
        addresses = tuple(AddressView(mac_text(one.mac), one.port, names.get(one.port, ""), one.fixed, one.age_ns) for one in report.addresses)
        counts: dict[str, Any] = {"frames": report.frames, "bytes": report.bytes}
        return NetworkView(report.name, ports, addresses, _uplink(uplink) if uplink is not None else None, **counts,
                           **self._meter.rates(f"/{report.name}", now, counts), drops=_drops(report.drops))  # fmt: skip

    def tail(self, name: str, source: str, since: int, most: int) -> PacketTail:
        """The last frames of a network, or with `source` of one port of it: what came from it or went to it. Raises UserError."""
        if not self._networks.has(name):
            raise UserError(f"no network {ascii(name)[1:-1][:40]}", why=f"there are: {', '.join(self._networks.names()) or 'none'}")
        network = self._networks.get(name)
        frames, seq = network.tail(since, MAX_PACKETS)
        first = seq - len(frames) + 1
        numbered = [(first + at, one) for at, one in enumerate(frames) if not source or source == one.source or source in one.targets]
        shown = numbered[max(0, len(numbered) - most) :] if most > 0 else []
        return PacketTail(name, tuple(_packet(number, one) for number, one in shown), seq, max(0, first - since - 1) if since else 0)


def _packet(number: int, seen: Seen) -> PacketView:
    fate = seen.why or (f"to {seen.targets[0]}" if len(seen.targets) == 1 else f"to all {len(seen.targets)}")
    return PacketView(number, seen.time_ns / 1e9, seen.source, seen.length, one_line(seen.data, seen.length), fate)


def _drops(reasons: Mapping[str, int]) -> tuple[DropView, ...]:
    return tuple(DropView(reason, frames) for reason, frames in reasons.items() if frames)


def _capture(capture: Capture | None) -> CaptureView | None:
    if capture is None:
        return None
    return CaptureView(str(capture.path), capture.frames, capture.bytes, capture.limit, capture.trouble)


def _alarm(vif: Vif) -> str:
    if vif.trouble:
        return f"closed: {vif.trouble}"
    if vif.stalled(True):
        return "stalled: frames wait and the guest gives no receive buffers"
    return "held back by its rate limit" if vif.stalled(False) else ""


def _uplink(uplink: Uplink) -> UplinkView:
    counters, hosts = uplink.counters, {mac: name for name, mac in tuple(uplink.dhcp.names.items())}
    leases = tuple(LeaseView(_dotted(ip), mac_text(mac), hosts.get(mac, "")) for mac, ip in tuple(uplink.dhcp.leases.items()))
    forwards, flows = _relayed(uplink)
    return UplinkView(uplink.spec.subnet, _dotted(uplink.address), uplink.spec.domain, leases, forwards, flows, counters.frames, counters.arp,
                      dhcp=counters.dhcp, icmp=counters.icmp, dns=counters.dns, refused=counters.refused, ignored=counters.ignored)  # fmt: skip


def _relayed(uplink: Uplink) -> tuple[tuple[ForwardView, ...], tuple[FlowView, ...]]:
    """Services and what goes through them."""
    relay = uplink.relay
    if relay is None:
        return (), ()
    address, now = _dotted(uplink.address), time.monotonic_ns()
    forwards = [ForwardView(service.protocol, False, f"{address}:{service.port}", f"127.0.0.1:{service.host_port}",
                            relay.used.get((owner, protocol, port), 0)) for (owner, protocol, port), service in relay.services.items()]  # fmt: skip
    for owner, forward in relay.forwards():
        guest = forward.guest or (mac_text(owner) if owner else "")
        forwards.append(ForwardView("tcp", True, f"127.0.0.1:{forward.port}", f"{guest}:{forward.guest_port}",
                                    relay.used.get((owner, "in", forward.port), 0)))  # fmt: skip
    flows = [FlowView(flow.key.protocol, f"{_dotted(flow.key.guest)}:{flow.key.guest_port}", f"127.0.0.1:{flow.host_port}", flow.state,
                      flow.to_host, flow.to_guest, flow.retransmits, now - flow.began) for flow in tuple(relay.flows.values())]  # fmt: skip
    return tuple(forwards), tuple(flows)


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))
