"""Two networks for screens to draw: one busy with a flooder, a capture and an uplink, one quiet."""

from __future__ import annotations

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
from emulator.errors import UserError

_SECOND = 10**9
_LINES = (
    ("vif3.0", 42, "ARP, Request who-has 10.0.2.1 tell 10.0.2.2, length 28", "to all 2"),
    ("uplink", 60, "ARP, Reply 10.0.2.1 is-at 00:16:3e:ff:ff:ff, length 46", "to vif3.0"),
    ("vif3.0", 98, "IP 10.0.2.2 > 10.0.2.1: ICMP echo request, id 1, seq 7, length 64", "to uplink"),
    ("uplink", 98, "IP 10.0.2.1 > 10.0.2.2: ICMP echo reply, id 1, seq 7, length 64", "to vif3.0"),
    ("vif4.0", 60, "IP 10.9.9.9.5 > 10.0.2.2.7: UDP, length 0", "from another's address"),
    ("vif3.0", 74, "IP 10.0.2.2.40000 > 10.0.2.1.8000: Flags [S], seq 1000, win 64240, length 0", "to uplink"),
    ("vif4.0", 71, r"IP 10.0.2.3.5353 > 10.0.2.1.53: 9 A? \027[2Jevil., length 29", "to uplink"),
)


def networks_view(now_ns: int) -> NetworksView:
    """Counters grow with time, at steady rates."""
    seconds = now_ns // _SECOND
    capture = CaptureView("/home/me/captures/vif3.0.pcapng", frames=1200 * seconds, bytes=900_000 * seconds, limit=1 << 30)
    web = VifView(3, 0, "vif3.0", "web", "net0", "00:16:3e:00:00:03", "10.0.2.2", 1500, "connected", "connected", 1, 1000 * seconds,
                  700_000 * seconds, 900 * seconds, 80_000 * seconds, 1000.0, 700_000.0, 900.0, 80_000.0, capture=capture)  # fmt: skip
    loud = VifView(4, 0, "vif4.0", "loud", "net0", "00:16:3e:00:00:04", "10.0.2.3", 1500, "connected", "connected", 1, 9000 * seconds,
                   540_000 * seconds, 0, 0, 9000.0, 540_000.0, 0.0, 0.0, (DropView("no receive buffers", 77),), 4096, 125_000, True, 40 * seconds,
                   alarm="stalled: frames wait and the guest gives no receive buffers")  # fmt: skip
    shut = VifView(4, 1, "vif4.1", "loud", "quiet", "00:16:3e:00:00:05", mtu=1500, backend_state="closing", frontend_state="connected",
                   alarm="closed: sending: req_prod 0x901 is 2305 past rsp_prod 0x0, the ring has 256 slots")  # fmt: skip
    uplink = UplinkView("10.0.2.0/24", "10.0.2.1", "xen", (LeaseView("10.0.2.2", web.mac, "web"), LeaseView("10.0.2.3", loud.mac)),
                        (ForwardView("tcp", False, "10.0.2.1:8000", "127.0.0.1:8000", 3), ForwardView("tcp", True, "127.0.0.1:2222", "web:22")),
                        (FlowView("tcp", "10.0.2.2:40000", "127.0.0.1:8000", "ESTABLISHED", 420, 9 << 20, 2, 3 * _SECOND),),
                        500, 12, 4, 40, 9, 3, 2)  # fmt: skip
    ports = (BridgePortView(1, "uplink", "00:16:3e:ff:ff:ff", 700, 60_000), BridgePortView(2, "vif3.0", web.mac, web.tx_frames, web.tx_bytes, 12),
             BridgePortView(3, "vif4.0", loud.mac, loud.tx_frames, loud.tx_bytes, 300, (DropView("from another's address", 31),)))  # fmt: skip
    learned = AddressView("02:00:00:00:00:99", 1, "uplink", False, 9 * _SECOND)
    table = (*(AddressView(port.mac, port.number, port.name, True) for port in ports), learned)
    frames = web.tx_frames + loud.tx_frames
    net0 = NetworkView("net0", ports, table, uplink, frames, web.tx_bytes + loud.tx_bytes, 10_000.0, 1_240_000.0, ports[2].drops)
    quiet = NetworkView("quiet", (BridgePortView(1, "vif4.1", shut.mac),), (AddressView(shut.mac, 1, "vif4.1", True),))
    return NetworksView((net0, quiet), (web, loud, shut))


def packet_tail(network: str, source: str, since: int, most: int) -> PacketTail:
    if network == "quiet":
        return PacketTail(network)
    if network != "net0":
        raise UserError(f"no network {network}", why="there are: net0, quiet")
    shown = [PacketView(number, 1_700_000_000 + number / 10, *line) for number, line in enumerate(_LINES, start=1)
             if number > since and (not source or source == line[0] or line[3] == f"to {source}")]  # fmt: skip
    return PacketTail(network, tuple(shown[max(0, len(shown) - most) :]), len(_LINES))
