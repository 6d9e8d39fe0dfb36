"""Bridge, frames, buckets, captures and vif specs, each by itself."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.network import Bridge, Capture, Frame, Network, Rate, TokenBucket
from emulator.dom0.network.bridge import AGEING_NS, MAX_ADDRESSES
from emulator.dom0.network.frame import checksum, complete, find_transport, segment
from emulator.dom0.network.pcapng import header, packet
from emulator.dom0.vifspec import VifSpec, made_mac, numbered, parse_vif, parse_vifs
from emulator.errors import UserError

A, B, C = (bytes.fromhex(f"00163e00000{n}") for n in (1, 2, 3))
ALL = b"\xff" * 6


def frame(destination: bytes, source: bytes, size: int = 60) -> Frame:
    return Frame(destination + source + b"\x08\x00" + bytes(size - 14))


# --- the bridge ----------------------------------------------------------------------------------------------------------------


def test_a_frame_goes_to_its_addressee_alone_and_a_broadcast_to_all_others() -> None:
    bridge = Bridge()
    a, b, c = (bridge.attach(mac) for mac in (A, B, C))
    assert list(bridge.send(a, frame(B, A), 0)) == [b]
    assert list(bridge.send(a, frame(ALL, A), 0)) == [b, c]
    assert list(bridge.send(a, frame(A, A), 0)) == []
    assert list(bridge.send(a, frame(bytes.fromhex("020000000009"), A), 0)) == [b, c]  # unknown: flooded
    assert list(bridge.send(b, frame(bytes.fromhex("0180c2000001"), B), 0)) == []  # pause frames stay


def test_nobody_sends_in_anothers_name() -> None:
    bridge = Bridge()
    a, b, uplink = bridge.attach(A), bridge.attach(B), bridge.attach()
    assert list(bridge.send(a, frame(ALL, B), 0)) == [] and list(bridge.send(uplink, frame(ALL, A), 0)) == []
    assert bridge.ports[a].counters.forged == 1
    assert list(bridge.send(uplink, frame(B, A), 0)) == []
    assert list(bridge.send(b, frame(A, B), 0)) == [a]


def test_an_open_port_teaches_its_addresses_and_they_age() -> None:
    bridge = Bridge()
    a, b, uplink = bridge.attach(A), bridge.attach(B), bridge.attach()
    bridge.send(uplink, frame(A, C), 0)
    assert list(bridge.send(a, frame(C, A), AGEING_NS)) == [uplink]
    assert list(bridge.send(a, frame(C, A), AGEING_NS + 1)) == [b, uplink]
    for number in range(MAX_ADDRESSES + 100):
        bridge.send(uplink, frame(A, b"\x02\x00" + number.to_bytes(4, "big")), 0)
    assert len(list(bridge.addresses(0))) == MAX_ADDRESSES + 2
    bridge.detach(uplink)
    assert [address.mac for address in bridge.addresses(0)] == [A, B]
    assert list(bridge.send(a, frame(C, A), 0)) == [b]


def test_a_runt_and_a_port_that_is_gone_send_nothing() -> None:
    bridge = Bridge()
    a = bridge.attach(A)
    bridge.attach(B)
    assert list(bridge.send(a, Frame(B + A), 0)) == [] and bridge.ports[a].counters.malformed == 1
    bridge.detach(a)
    assert list(bridge.send(a, frame(B, A), 0)) == []


def test_a_network_hands_each_port_its_share_in_order() -> None:
    network, heard = Network("net0"), dict[str, list[list[Frame]]]()

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name
            heard[name] = []

        def deliver(self, frames: list[Frame]) -> None:
            heard[self.name].append(frames)

    a, _b, _c = (network.attach(Listener(name), mac) for name, mac in (("a", A), ("b", B), ("c", C)))
    sent = [frame(B, A, 60), frame(ALL, A, 61), frame(B, A, 62), frame(C, A, 63)]
    network.send(a, sent)
    assert heard == {"a": [], "b": [[sent[0], sent[1], sent[2]]], "c": [[sent[1], sent[3]]]}
    assert [port.name for port in network.report().ports] == ["a", "b", "c"]


# --- frames --------------------------------------------------------------------------------------------------------------------


def tcp(payload: bytes, version: int = 4, flags: int = 0x18) -> bytes:
    """A TCP frame with the pseudo header's sum in its checksum field, as Linux hands it over."""
    header = struct.pack(">HHIIBBHHH", 1000, 2000, 0xFFFFFF00, 7, 5 << 4, flags, 500, 0, 0)
    if version == 4:
        ip = bytearray(struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 9, 0x4000, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"))
        ip[10:12] = checksum(bytes(ip)).to_bytes(2, "big")
        return B + A + b"\x08\x00" + bytes(ip) + header + payload
    ip6 = struct.pack(">IHBB16s16s", 6 << 28, 20 + len(payload), 6, 64, bytes(15) + b"\1", bytes(15) + b"\2")
    return B + A + b"\x86\xdd" + ip6 + header + payload


def sums_are_right(data: bytes) -> bool:
    where = find_transport(data)
    assert where is not None
    pseudo = where.pseudo + struct.pack(">II", where.protocol, where.end - where.start)
    network = where.version == 6 or checksum(data[where.network : where.start]) == 0
    return network and checksum(pseudo + data[where.start : where.end] + bytes(where.end - where.start & 1)) == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 1000, 1447])
def test_a_blank_checksum_is_filled_in(version: int, size: int) -> None:
    filled = complete(Frame(tcp(random.Random(size).randbytes(size), version), blank=True))
    assert not filled.blank and sums_are_right(filled.data)
    assert complete(filled) is filled


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_frame_is_cut_as_tcp_wants_it(version: int) -> None:
    payload = random.Random(1).randbytes(5000)
    parts = segment(Frame(tcp(payload, version, flags=0x80 | 0x19), blank=True, gso=1448, gso_type=1))
    where = [find_transport(part.data) for part in parts]
    assert all(sums_are_right(part.data) for part in parts)
    start = where[0].start if where[0] else 0
    assert b"".join(part.data[start + 20 :] for part in parts) == payload
    assert [struct.unpack_from(">I", part.data, start + 4)[0] for part in parts] == [(0xFFFFFF00 + n * 1448) & 0xFFFFFFFF for n in range(4)]
    assert [part.data[start + 13] for part in parts] == [0x90, 0x10, 0x10, 0x19]  # CWR on the first, FIN and PSH on the last alone


def test_what_cannot_be_cut_is_dropped() -> None:
    assert segment(Frame(frame(B, A, 9000).data, gso=1448)) == []
    assert segment(Frame(tcp(bytes(60000)), gso=1)) == []  # a flood for the price of a frame


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.integers(1, 2000), st.booleans())
def test_no_frame_is_too_strange(data: bytes, gso: int, ip: bool) -> None:
    if ip:
        data = (B + A + b"\x08\x00\x45" + data)[:200]
    complete(Frame(data, blank=True))
    for part in segment(Frame(data, gso=gso)):
        assert len(part.data) <= len(data)


# --- rates ---------------------------------------------------------------------------------------------------------------------


def test_a_bucket_lets_its_rate_through_and_no_more() -> None:
    bucket, now, passed = TokenBucket(Rate(62_500, 50_000)), 0, 0  # 10 Mb/s
    while now < 10 * 10**9:
        again = bucket.take(1500, now)
        if again:
            assert again > now
            now = again
        else:
            passed += 1500
    assert 12_500_000 * 0.99 <= passed <= 12_500_000 + 131_072 + 62_500


def test_a_bucket_saves_up_to_a_burst_and_lets_the_largest_frame_through() -> None:
    bucket = TokenBucket(Rate(1000, 50_000))
    again = bucket.take(65_535, 0)
    assert again == 65 * 50_000_000  # 64.5 intervals are missing
    assert bucket.take(65_535, again - 1) and not bucket.take(65_535, again)
    idle = again + 10**12
    assert not bucket.take(131_072, idle) and bucket.take(1, idle)


# --- captures ------------------------------------------------------------------------------------------------------------------


def test_a_capture_has_every_frame_with_its_time_and_direction(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "x.pcapng", "vif1.0")
    capture.add(frame(B, A, 61), (5 << 32) + 6, True)
    capture.add(Frame(tcp(b"hello"), blank=True), 7, False)
    capture.close()
    capture.add(frame(B, A), 8, True)
    data, blocks, at = (tmp_path / "x.pcapng").read_bytes(), [], 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size % 4 == 0 and data[at + size - 4 : at + size] == struct.pack("<I", size)
        blocks.append((kind, data[at + 8 : at + size - 4]))
        at += size
    assert [kind for kind, _ in blocks] == [0x0A0D0D0A, 1, 6, 6] and capture.frames == 2
    assert b"vif1.0" in blocks[1][1]
    _, high, low, captured, length = struct.unpack_from("<IIIII", blocks[2][1])
    assert (high, low, captured, length) == (5, 6, 61, 61) and blocks[2][1][20:81] == frame(B, A, 61).data
    assert blocks[2][1][84:92] == struct.pack("<HHI", 2, 4, 2) and blocks[3][1][-12:-4] == struct.pack("<HHI", 2, 4, 1)
    size = struct.unpack_from("<I", blocks[3][1], 12)[0]
    assert sums_are_right(blocks[3][1][20 : 20 + size])
    with pytest.raises(UserError, match="exists"):
        Capture(tmp_path / "x.pcapng", "x")
    with pytest.raises(UserError, match="cannot be written"):
        Capture(tmp_path / "none" / "x.pcapng", "x")


def test_a_capture_is_pcapng_byte_by_byte() -> None:
    section = "0a0d0d0a 30000000 4d3c2b1a 0100 0000 ffffffffffffffff" + "0400 0a00 78656e636f6e736f6c65 0000" + "0000 0000 30000000"
    interface = "01000000 2c000000 0100 0000 00000000" + "0200 0600 766966312e30 0000" + "0900 0100 09 000000" + "0000 0000 2c000000"
    assert header("vif1.0") == bytes.fromhex(section + interface)
    sent = "06000000 34000000 00000000 02000000 03000000 05000000 05000000 68656c6c6f 000000 0200 0400 02000000 0000 0000 34000000"
    assert packet(b"hello", (2 << 32) + 3, sent=True) == bytes.fromhex(sent)


# --- specs ---------------------------------------------------------------------------------------------------------------------


def test_a_spec_is_read() -> None:
    spec = parse_vif("mac=00:16:3E:1:2:ff, bridge=net0 ,rate=10Mb/s,mtu=9000,untrusted", domain="x", number=3, where="f:1")
    assert spec == VifSpec(3, bytes.fromhex("00163e0102ff"), "net0", Rate(62_500, 50_000), 9000, False, None, spec.text)
    assert parse_vif("", domain="x", number=0) == VifSpec(0, made_mac("x", 0), "xenbr0")
    assert parse_vif("type=vif,backend=0,model=e1000,devid=7", domain="x").devid == 7


def test_made_addresses_are_xens_and_always_the_same() -> None:
    assert made_mac("x", 0) == made_mac("x", 0) != made_mac("x", 1) != made_mac("y", 1)
    assert made_mac("x", 0)[:3] == bytes.fromhex("00163e")
    late = parse_vif("bridge=b", domain="x")
    assert late.devid == -1 and numbered(late, "x", 4).mac == made_mac("x", 4)


@pytest.mark.parametrize(
    ("rate", "bytes_per_interval", "interval_us"),
    [("10Mb/s", 62_500, 50_000), ("250KB/s", 12_500, 50_000), ("1MB/s@20ms", 20_000, 20_000), ("8000b/s@2s", 2000, 2_000_000),
     ("1GB/s@10us", 10_000, 10), ("100B/s@1", 100, 1_000_000)],
)  # fmt: skip
def test_rates_are_libxlus(rate: str, bytes_per_interval: int, interval_us: int) -> None:
    assert parse_vif(f"rate={rate}", domain="x", number=0).rate == Rate(bytes_per_interval, interval_us)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [("mac=00:16:3e:00:00", 1, "no address"), ("bridge=a,mac=01:16:3e:00:00:01", 10, "a group's"), ("mac=0:0:0:0:0:0", 1, "nobody's"),
     ("bridge=", 1, "network's name"), ("bridge=../x", 1, "network's name"), ("rate=10", 1, "no rate"), ("rate=1b/s", 1, "0 bytes"),
     ("rate=9999999999GB/s", 1, "bytes an interval"), ("rate=1MB/s@9999999999", 1, "interval"), ("mtu=10", 1, "not between"),
     ("devid=x", 1, "not between"), ("bridge=a,bridge=b", 10, "twice"), ("x", 1, "no setting"), ("a=b", 1, "unknown setting"),
     ("type=ioemu", 1, "not offered"), ("script=x", 1, "no meaning"), ("backend=3", 1, "Domain-0 alone"), ("br\x1b=3", 1, "not printable")],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, place: int, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        parse_vif(text, domain="x", number=0, where="g.cfg:4")
    assert f"character {place}:" in str(caught.value) and str(caught.value).startswith("g.cfg:4: vif '") and "\x1b" not in str(caught.value)


def test_no_two_interfaces_of_a_domain_are_the_same() -> None:
    assert [vif.devid for vif in parse_vifs(["", "bridge=b"], domain="x", where="f")] == [0, 1]
    with pytest.raises(UserError, match="address 00:16:3e:00:00:01 is there twice"):
        parse_vifs(["mac=00:16:3e:00:00:01"] * 2, domain="x", where="f")
    with pytest.raises(UserError, match="devid 1 is there twice"):
        parse_vifs(["devid=1", ""], domain="x", where="f")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_spec_or_a_mistake(text: str) -> None:
    try:
        parse_vif(text, domain="x", number=0)
    except UserError as mistake:
        assert mistake.line().isprintable()
