"""What a network screen is given: frames in words whatever a guest put into them, tails, drops and why, rates."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.control.networkportraits import Meter, Networkscape
from emulator.dom0.network import Frame, Networks, UplinkSpec, packets
from emulator.dom0.network.decode import MOST, SNAP, one_line
from emulator.dom0.network.switch import TAIL
from emulator.errors import UserError

A, B = bytes.fromhex("00163e00000a"), bytes.fromhex("00163e00000b")
IP_A, IP_B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


class Ear:
    def __init__(self, name: str) -> None:
        self.name = name
        self.heard: list[Frame] = []

    def deliver(self, frames: list[Frame]) -> None:
        self.heard += frames


def line(kind: bytes, body: bytes) -> str:
    data = packets.ethernet(B, A, kind, body)
    return one_line(data[:SNAP], len(data))


def tcp(flags: int, payload: bytes = b"") -> bytes:
    return packets.ip(packets.TCP, IP_A, IP_B, struct.pack(">HHIIBBHHH", 40000, 80, 1000, 2000, 5 << 4, flags, 501, 0, 0) + payload)


def dns(name: bytes, flags: int = 0) -> bytes:
    query = struct.pack(">HHHHHH", 77, flags, 1, 0, 0, 0) + name + b"\0" + struct.pack(">HH", 28, 1)
    return packets.udp(IP_A, 5000, IP_B, 53, query)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (packets.ARP, packets.arp(1, A, IP_A, bytes(6), IP_B), "ARP, Request who-has 10.0.0.2 tell 10.0.0.1, length 46"),
        (packets.ARP, packets.arp(2, A, IP_A, B, IP_B), "ARP, Reply 10.0.0.1 is-at 00:16:3e:00:00:0a, length 46"),
        (packets.IPV4, packets.udp(IP_A, 4000, IP_B, 7, bytes(56)), "IP 10.0.0.1.4000 > 10.0.0.2.7: UDP, length 56"),
        (packets.IPV4, packets.ip(packets.ICMP, IP_A, IP_B, packets.icmp(8, 0, struct.pack(">HH", 3, 9) + bytes(56))),
         "IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 3, seq 9, length 64"),
        (packets.IPV4, tcp(0x18, b"hello"), "IP 10.0.0.1.40000 > 10.0.0.2.80: Flags [P.], seq 1000:1005, ack 2000, win 501, length 5"),
        (packets.IPV4, tcp(0x02), "IP 10.0.0.1.40000 > 10.0.0.2.80: Flags [S], seq 1000, win 501, length 0"),
        (packets.IPV4, dns(b"\3web\3xen"), "IP 10.0.0.1.5000 > 10.0.0.2.53: 77 AAAA? web.xen., length 25"),
        (packets.IPV4, dns(b"\4\x1b[2J", 0x8183), r"IP 10.0.0.1.5000 > 10.0.0.2.53: 77 NXDomain AAAA? \027[2J., length 22"),
        (b"\x86\xdd", b"\x60\0\0\0\0\x08\x3a\xff" + b"\xfe\x80" + bytes(13) + b"\1" + b"\xff\2" + bytes(13) + b"\2" + b"\x85\0\0\0" + bytes(4),
         "IP6 fe80::1 > ff02::2: ICMP6, router solicitation, length 8"),
        (b"\x88\xcc", bytes(46), "00:16:3e:00:00:0a > 00:16:3e:00:00:0b, ethertype 0x88cc, length 60"),
        (b"\x81\x00", b"\0\5\x08\0" + packets.udp(IP_A, 1, IP_B, 2, b""), "vlan 5, IP 10.0.0.1.1 > 10.0.0.2.2: UDP, length 0"),
    ],
)  # fmt: skip
def test_a_frame_is_told_as_tcpdump_tells_it(kind: bytes, body: bytes, said: str) -> None:
    assert line(kind, body) == said


def test_a_lease_is_told_with_its_address() -> None:
    hello = struct.pack(">BBBBIHH4s4s4s4s16s64s128s4s", 2, 1, 6, 0, 1, 0, 0, bytes(4), IP_B, IP_A, bytes(4), A, b"", b"", b"\x63\x82\x53\x63")
    said = line(packets.IPV4, packets.udp(IP_A, 67, IP_B, 68, hello + b"\x35\x01\x05\xff"))
    assert said == "IP 10.0.0.1.67 > 10.0.0.2.68: BOOTP/DHCP, Reply to 00:16:3e:00:00:0a, ACK, 10.0.0.2, length 244"


_KINDS = st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00\0\1\x08\x00", b"\x81\x00\0\1\x86\xdd", b"\xff\xff"])
_HEADS = st.sampled_from([b"", b"\x45\0\0\x40\0\0\0\0\x40\x11\0\0" + IP_A + IP_B + b"\0\x35\0\x35", b"\x60\0\0\0\0\x28\x00\x40" + bytes(32)])


@given(_KINDS, _HEADS, st.binary(max_size=SNAP))
def test_whatever_a_guest_sends_is_one_printable_line(kind: bytes, head: bytes, rest: bytes) -> None:
    data = (bytes(12) + kind + head + rest)[:SNAP]
    for cut in (len(data), len(data) // 2, 14, 3):
        said = one_line(data[:cut], len(data))
        assert said.isascii() and said.isprintable() and 0 < len(said) <= MOST


def test_the_tail_tells_where_each_frame_went_and_why_not() -> None:
    networks = Networks()
    net = networks.get("net0")
    a, b, c = Ear("vif1.0"), Ear("vif2.0"), Ear("vif3.0")
    port_a, port_b, _ = net.attach(a, A), net.attach(b, B), net.attach(c, bytes.fromhex("00163e00000c"))
    to_b = Frame(packets.ethernet(B, A, packets.IPV4, packets.udp(IP_A, 1, IP_B, 2, b"x")))
    to_all = Frame(packets.ethernet(packets.BROADCAST, B, packets.ARP, packets.arp(1, B, IP_B, bytes(6), IP_A)))
    net.send(port_a, [to_b])
    net.send(port_b, [to_all, to_b])
    scape = Networkscape(networks)
    tail = scape.tail("net0", "", 0, 100)
    assert [(one.seq, one.source, one.fate) for one in tail.packets] == [
        (1, "vif1.0", "to vif2.0"), (2, "vif2.0", "to all 2"), (3, "vif2.0", "from another's address")
    ]  # fmt: skip
    assert tail.packets[1].text.startswith("ARP, Request who-has 10.0.0.1") and tail.packets[0].length == 60
    assert [one.seq for one in scape.tail("net0", "vif3.0", 0, 100).packets] == [2]
    assert [one.seq for one in scape.tail("net0", "", 2, 100).packets] == [3]
    assert [one.seq for one in scape.tail("net0", "", 0, 1).packets] == [3] and not scape.tail("net0", "", 3, 9).packets
    net.send(port_a, [to_b] * (TAIL + 50))
    late = scape.tail("net0", "", 3, 10)
    assert (late.missed, late.seq, late.packets[-1].seq) == (50, TAIL + 53, TAIL + 53) and len(late.packets) == 10
    with pytest.raises(UserError, match="no network net9: there are: net0"):
        scape.tail("net9", "", 0, 1)


def test_a_network_shows_its_ports_its_table_and_its_drops() -> None:
    networks = Networks()
    networks.set_uplink("net0", UplinkSpec())
    net = networks.get("net0")
    port = net.attach(Ear("vif1.0"), A)
    learning = net.attach(Ear("tap"))
    asked = packets.arp(1, A, bytes((10, 0, 2, 2)), bytes(6), bytes((10, 0, 2, 1)))
    net.send(port, [Frame(packets.ethernet(packets.BROADCAST, A, packets.ARP, asked))])
    net.send(port, [Frame(b"short"), Frame(packets.ethernet(A, B, packets.IPV4, b"forged"))])
    net.send(learning, [Frame(packets.ethernet(A, B, packets.IPV4, b"learned"))])
    scape = Networkscape(networks)
    (view,) = scape.view([]).networks
    assert view.uplink is not None and (view.uplink.address, view.uplink.arp) == ("10.0.2.1", 1)
    assert {one.name: {drop.reason: drop.frames for drop in one.drops} for one in view.ports}["vif1.0"] == {
        "from another's address": 1, "too short": 1
    }  # fmt: skip
    assert {(one.mac, one.name, one.fixed) for one in view.addresses} >= {("00:16:3e:00:00:0a", "vif1.0", True), ("00:16:3e:00:00:0b", "tap", False)}
    before = view.frames
    net.detach(port)
    (view,) = scape.view([]).networks
    assert view.frames == before and {drop.reason for drop in view.drops} == {"from another's address", "too short"}
    networks.close()


def test_rates_are_of_the_last_second() -> None:
    meter, second = Meter(), 10**9
    assert meter.rates("a", 0, {"bytes": 500}) == {"bytes_rate": 0.0}
    assert meter.rates("a", second // 2, {"bytes": 1000}) == {"bytes_rate": 1000.0}
    assert meter.rates("a", second, {"bytes": 1500}) == {"bytes_rate": 1000.0}
    assert meter.rates("a", 2 * second, {"bytes": 1500}) == {"bytes_rate": 0.0}
    meter.keep([])
    assert meter.rates("a", 3 * second, {"bytes": 9000}) == {"bytes_rate": 0.0}
