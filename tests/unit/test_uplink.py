"""The uplink, frame by frame: what it answers, and all it does not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.network import Frame, Networks, packets
from emulator.dom0.network.frame import checksum
from emulator.dom0.network.uplink import MAC, Uplink, UplinkSpec
from emulator.errors import UserError

A = bytes.fromhex("00163e000001")
GATEWAY, CLIENT = bytes((10, 0, 2, 1)), bytes((10, 0, 2, 2))


def to_gateway(body: bytes, kind: bytes = packets.IPV4, target: bytes = MAC) -> Frame:
    return Frame(packets.ethernet(target, A, kind, body))


def dhcp(kind: int, *options: tuple[int, bytes], mac: bytes = A, client: bytes = bytes(4)) -> Frame:
    head = struct.pack(">BBBBIHH4s4s4s4s16s64s128s4s", 1, 1, 6, 0, 77, 0, 0, client, b"", b"", b"", mac, b"", b"", b"\x63\x82\x53\x63")
    coded = b"".join(bytes([code, len(value)]) + value for code, value in ((53, bytes([kind])), *options))
    return to_gateway(packets.udp(bytes(4), 68, b"\xff" * 4, 67, head + coded + b"\xff"), target=packets.BROADCAST)


def answer(uplink: Uplink, frame: Frame) -> packets.Ip:
    (got,) = uplink.receive(frame)
    assert got.destination == A and got.source == MAC
    packet = packets.read_ip(got.data)
    assert packet is not None
    return packet


def leased(uplink: Uplink, name: bytes = b"web") -> None:
    answer(uplink, dhcp(1))
    answer(uplink, dhcp(3, (50, CLIENT), (12, name)))


def test_arp_is_answered_for_its_own_address_alone() -> None:
    uplink = Uplink(UplinkSpec())
    asked = packets.arp(1, A, CLIENT, bytes(6), GATEWAY)
    (got,) = uplink.receive(to_gateway(asked, packets.ARP, packets.BROADCAST))
    told = packets.read_arp(got.data)
    assert told == packets.Arp(2, MAC, GATEWAY, CLIENT) and got.destination == A
    other = packets.arp(1, A, CLIENT, bytes(6), bytes((10, 0, 2, 9)))
    assert uplink.receive(to_gateway(other, packets.ARP, packets.BROADCAST)) == []


def test_a_client_gets_a_lease_and_keeps_it() -> None:
    uplink = Uplink(UplinkSpec())
    for kind, reply, options in ((1, 2, ()), (3, 5, ((50, CLIENT),)), (1, 2, ()), (3, 5, ((50, CLIENT),))):
        packet = answer(uplink, dhcp(kind, *options))
        datagram = packets.read_udp(packet)
        assert datagram is not None and datagram[:2] == (67, 68) and packet.target == b"\xff" * 4
        payload = datagram[2]
        assert payload[16:20] == CLIENT and payload[240:243] == bytes((53, 1, reply)) and struct.unpack_from(">I", payload, 4) == (77,)
        assert bytes((1, 4, 255, 255, 255, 0, 3, 4)) + GATEWAY in payload
    assert uplink.dhcp.leases == {A: CLIENT}
    nak = packets.read_udp(answer(uplink, dhcp(3, (50, bytes((10, 0, 2, 99))))))
    assert nak is not None and nak[2][242] == 6
    uplink.receive(dhcp(7, client=CLIENT))
    assert not uplink.dhcp.leases


def test_an_interface_asks_for_itself_alone_and_nobody_empties_the_pool() -> None:
    uplink = Uplink(UplinkSpec("10.9.0.0/29"))
    assert uplink.receive(dhcp(1, mac=bytes.fromhex("00163e000009"))) == []
    for number in range(8):
        mac = bytes.fromhex("00163e0000") + bytes([number])
        frame = dhcp(1, mac=mac)
        uplink.receive(Frame(frame.data[:6] + mac + frame.data[12:]))
    assert len(uplink.dhcp.leases) == 5  # eight addresses less network, broadcast and gateway


def test_an_echo_comes_back_with_its_data() -> None:
    uplink = Uplink(UplinkSpec())
    echo = packets.icmp(8, 0, b"\x12\x34\x00\x01payload")
    packet = answer(uplink, to_gateway(packets.ip(packets.ICMP, CLIENT, GATEWAY, echo)))
    assert packet.body[0] == 0 and packet.body[4:] == b"\x12\x34\x00\x01payload" and checksum(packet.body) == 0 and packet.target == CLIENT


def ask(uplink: Uplink, name: str, kind: int = 1, flags: int = 0x100) -> tuple[int, bytes]:
    """(error code, address)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">HHHHHH", 7, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
    datagram = packets.read_udp(answer(uplink, to_gateway(packets.udp(CLIENT, 4000, GATEWAY, 53, query))))
    assert datagram is not None and datagram[:2] == (53, 4000)
    reply = datagram[2]
    assert struct.unpack_from(">H", reply) == (7,) and reply[2] & 0x80
    return reply[3] & 15, reply[-4:] if reply[7] else b""


def test_names_are_its_own_or_the_guests_and_no_others() -> None:
    uplink = Uplink(UplinkSpec())
    leased(uplink)
    assert ask(uplink, "gateway.xen") == (0, GATEWAY) and ask(uplink, "WEB.xen") == (0, CLIENT) and ask(uplink, "web") == (0, CLIENT)
    assert ask(uplink, "web", kind=28) == (0, b"") and ask(uplink, "nobody.xen") == (3, b"")
    assert ask(uplink, "debian.org") == (5, b"") and ask(uplink, "x", flags=0x2800) == (4, b"")
    leased(uplink, b"gateway")
    assert ask(uplink, "gateway.xen") == (0, GATEWAY)


def test_nothing_else_is_there() -> None:
    uplink = Uplink(UplinkSpec())
    syn = struct.pack(">HHIIBBHHH", 5000, 80, 100, 0, 5 << 4, 2, 1000, 0, 0)
    packet = answer(uplink, to_gateway(packets.ip(packets.TCP, CLIENT, GATEWAY, syn)))
    assert struct.unpack_from(">HHIIBB", packet.body) == (80, 5000, 0, 101, 0x50, 0x14)
    assert packets.transport_sum(packets.TCP, GATEWAY, CLIENT, packet.body) == 0
    gone = answer(uplink, to_gateway(packets.udp(CLIENT, 4000, GATEWAY, 9, b"x")))
    assert gone.protocol == packets.ICMP and gone.body[:2] == b"\x03\x03"
    assert uplink.receive(to_gateway(packets.ip(packets.ICMP, CLIENT, bytes((1, 1, 1, 1)), packets.icmp(8, 0, bytes(4))))) == []
    assert uplink.receive(Frame(packets.ethernet(bytes(6), A, packets.IPV4, b""))) == []


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["ip", "udp", "dns", "dhcp", "tcp", "arp"]))
def test_no_frame_hurts_it(data: bytes, kind: str) -> None:
    body = {
        "ip": data, "arp": data, "tcp": packets.ip(packets.TCP, CLIENT, GATEWAY, data), "udp": packets.ip(packets.UDP, CLIENT, GATEWAY, data),
        "dns": packets.udp(CLIENT, 1, GATEWAY, 53, data), "dhcp": packets.udp(CLIENT, 68, GATEWAY, 67, dhcp(1).data[42:282] + data),
    }[kind]  # fmt: skip
    for got in Uplink(UplinkSpec()).receive(to_gateway(body, packets.ARP if kind == "arp" else packets.IPV4)):
        assert len(got.data) <= 1514


def test_an_uplink_is_put_on_a_network_and_taken_away() -> None:
    networks, heard = Networks(), list[Frame]()

    class Listener:
        name = "a"

        def deliver(self, frames: list[Frame]) -> None:
            heard.extend(frames)

    port = networks.get("net0").attach(Listener(), A)
    networks.get("net0").send(port, [dhcp(1)])
    assert not heard
    networks.set_uplink("net0", UplinkSpec())
    networks.get("net0").send(port, [dhcp(1)])
    assert len(heard) == 1
    networks.set_uplink("net0", None)
    networks.get("net0").send(port, [dhcp(1)])
    assert len(heard) == 1
    for wrong in ("x", "10.0.0.1/24", "10.0.0.0/31", "::/64"):
        with pytest.raises(UserError, match="no subnet"):
            networks.set_uplink("net0", UplinkSpec(wrong))


def test_a_guest_has_one_name_and_takes_nobodys() -> None:
    uplink = Uplink(UplinkSpec())
    for number in range(100):
        leased(uplink, b"n%d" % number)
    assert uplink.dhcp.names == {"n99": A}
    other = bytes.fromhex("00163e000002")
    for kind, options in ((1, ()), (3, ((50, bytes((10, 0, 2, 3))), (12, b"n99")))):
        frame = dhcp(kind, *options, mac=other)
        uplink.receive(Frame(frame.data[:6] + other + frame.data[12:]))
    assert uplink.dhcp.names == {"n99": A} and len(uplink.dhcp.leases) == 2
    uplink.receive(dhcp(7, client=CLIENT))
    assert not uplink.dhcp.names


def test_addresses_of_interfaces_that_left_are_given_again() -> None:
    uplink = Uplink(UplinkSpec("10.9.0.0/29"))

    def offered(number: int) -> bool:
        mac = bytes.fromhex("00163e0000") + bytes([number])
        frame = dhcp(1, mac=mac)
        return bool(uplink.receive(Frame(frame.data[:6] + mac + frame.data[12:])))

    assert [offered(number) for number in range(6)] == [True] * 5 + [False]
    kept = dict(uplink.dhcp.leases)
    uplink.left(bytes.fromhex("00163e000003"))
    uplink.left(bytes.fromhex("00163e000001"))
    assert offered(3) and uplink.dhcp.leases == kept, "one that comes again has what it had"
    assert offered(7) and not offered(8)
    assert uplink.dhcp.leases[bytes.fromhex("00163e000007")] == kept[bytes.fromhex("00163e000001")]
