"""Services of the loopback through the uplink: real sockets on one side, a guest of plain frames on the other."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.control.networkportraits import Networkscape
from emulator.dom0.network import Frame, Networks, UplinkSpec, packets
from emulator.dom0.network.flows import Key, TcpFlow
from emulator.dom0.network.frame import complete, wire_frames
from emulator.dom0.network.relay import MAX_FLOWS_EACH
from emulator.dom0.network.segment import ACK, RST, SYN, Segment
from emulator.dom0.network.services import Forward, Service, Services, parse_services
from emulator.dom0.network.tcp import TcpEnd
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS, until
from tests.ports import free_port

A, IP_A = bytes.fromhex("00163e000001"), bytes((10, 0, 2, 2))
GATEWAY = bytes((10, 0, 2, 1))


class Guest:
    """A guest on a network, whose TCP is our own machine's other end."""

    def __init__(self, networks: Networks, mac: bytes = A) -> None:
        self.name, self.mac = "vif1.0", mac
        self.frames: list[Frame] = []
        self.came = threading.Condition()
        self.network = networks.get("net0")
        self.port = self.network.attach(self, mac)

    def deliver(self, frames: list[Frame]) -> None:
        with self.came:
            self.frames += [one for frame in frames for one in wire_frames(frame)]
            self.came.notify()

    def take(self, seconds: float = PATIENCE_SECONDS) -> list[Frame]:
        with self.came:
            self.came.wait_for(lambda: self.frames, seconds)
            taken, self.frames = self.frames, []
            return taken

    def segment(self) -> tuple[packets.Ip, Segment]:
        """The one segment that comes; it came again if the machine stalled while it waited for an answer."""
        first, *again = (segment_of(frame) for frame in self.take())
        assert all(one == first[1] for _, one in again)
        return first

    def say(self, packet: bytes) -> None:
        self.network.send(self.port, [Frame(packets.ethernet(packets.UPLINK_MAC, self.mac, packets.IPV4, packet), validated=True)])

    def datagram(self, port: int, payload: bytes) -> None:
        self.say(packets.udp(IP_A, 4000, GATEWAY, port, payload))

    def segments(self, port: int, out: list[Segment], own: int = 40000) -> None:
        """From us: the flow's own way of writing them, mirrored."""
        writer = TcpFlow(Key("tcp", self.mac, GATEWAY, port, own), IP_A, 0, 0)
        for one in out:
            frame = complete(writer._segment(one))
            self.network.send(self.port, [Frame(packets.UPLINK_MAC + self.mac + frame.data[12:], validated=True)])


def segment_of(frame: Frame) -> tuple[packets.Ip, Segment]:
    packet = packets.read_ip(frame.data) or pytest.fail("no IP")
    return packet, packets.read_tcp(packet) or pytest.fail("no TCP")


def run_tcp(guest: Guest, port: int, end: TcpEnd, say: bytes, enough: Callable[[bytes], bool], own: int = 40000) -> bytes:
    """A whole connection from the guest's side: says `say`, closes when `enough(heard)`."""
    heard, deadline = b"", time.monotonic() + PATIENCE_SECONDS
    while not end.done and end.state != "TIME_WAIT" and time.monotonic() < deadline:
        now = time.monotonic_ns()
        end.tick(now)
        room = min(end.room, len(say))
        end.write(say[:room])
        say = say[room:]
        with end.waiting as waiting:
            heard += bytes(waiting)
        end.take(len(heard) and len(end.waiting))
        if not say and enough(heard):
            end.close()
        guest.segments(port, end.output(now), own)
        for frame in guest.take(0.05):
            packet = packets.read_ip(frame.data)
            assert packet is not None
            segment = packets.read_tcp(packet)
            if segment is not None and packets.read_ports(packet) == (port, own):
                end.receive(segment, time.monotonic_ns())
    guest.segments(port, end.output(time.monotonic_ns()), own)
    return heard


@pytest.fixture
def networks() -> Iterator[Networks]:
    made = Networks()
    yield made
    made.close()


def serve(act: Callable[[socket.socket], None], family: int = socket.AF_INET) -> int:
    """A TCP service of the loopback; its port."""
    listener = socket.create_server(("127.0.0.1" if family == socket.AF_INET else "::1", 0), family=family)

    def work() -> None:
        with listener:
            client, _ = listener.accept()
            with client:
                act(client)

    threading.Thread(target=work, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def echo(client: socket.socket) -> None:
    while data := client.recv(65536):
        client.sendall(data)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_guest_talks_to_a_service_and_both_streams_are_whole(networks: Networks, family: int) -> None:
    port = serve(echo, family)
    networks.set_uplink("net0", UplinkSpec(services=Services((Service("tcp", 80, port),))))
    guest = Guest(networks)
    data = random.Random(1).randbytes(400_000)
    end = TcpEnd.call(77, time.monotonic_ns())
    assert run_tcp(guest, 80, end, data, lambda heard: len(heard) == len(data)) == data
    assert end.eof and not end.reset
    (view,) = Networkscape(networks).view([]).networks
    assert view.uplink is not None and [(one.listens, one.connects, one.flows) for one in view.uplink.forwards] == [
        ("10.0.2.1:80", f"127.0.0.1:{port}", 1)
    ]  # fmt: skip


def test_what_is_not_allowed_is_refused_and_so_is_a_service_that_is_not_there(networks: Networks) -> None:
    unused = free_port()
    networks.set_uplink("net0", UplinkSpec(services=parse_services(f"80={unused}")))
    guest = Guest(networks)
    for port in (80, 81, 22):
        end = TcpEnd.call(5, time.monotonic_ns())
        assert run_tcp(guest, port, end, b"", lambda heard: False) == b"" and end.reset == "refused by the guest"
    guest.datagram(99, b"x")
    (frame,) = guest.take()
    assert (packets.read_ip(frame.data) or pytest.fail("no IP")).body[:2] == b"\3\3"  # port unreachable


def test_an_interface_reaches_what_it_was_granted_and_no_other_does(networks: Networks) -> None:
    port = serve(echo)
    networks.grant("net0", A, parse_services(f"7={port}"))
    stranger = Guest(networks, bytes.fromhex("00163e000002"))
    end = TcpEnd.call(5, time.monotonic_ns())
    run_tcp(stranger, 7, end, b"hi", lambda heard: False)
    assert end.reset == "refused by the guest"
    guest = Guest(networks)
    end = TcpEnd.call(5, time.monotonic_ns())
    assert run_tcp(guest, 7, end, b"hi", lambda heard: heard == b"hi") == b"hi"
    networks.left("net0", A)
    end = TcpEnd.call(5, time.monotonic_ns())
    run_tcp(guest, 7, end, b"", lambda heard: False, own=40001)
    assert end.reset


def test_datagrams_go_and_come_back(networks: Networks) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        service.settimeout(PATIENCE_SECONDS)
        networks.set_uplink("net0", UplinkSpec(services=parse_services(f"udp:7={service.getsockname()[1]}")))
        guest = Guest(networks)
        for payload in (b"one", b"two", b"x" * 1400):
            guest.datagram(7, payload)
            data, sender = service.recvfrom(2000)
            assert data == payload and sender[0] == "127.0.0.1"
            service.sendto(data[::-1], sender)
            (frame,) = guest.take()
            assert packets.read_udp(packets.read_ip(frame.data) or pytest.fail("no IP")) == (7, 4000, payload[::-1])


def test_a_port_of_the_loopback_leads_to_a_guest(networks: Networks) -> None:
    port = free_port()
    networks.grant("net0", A, Services((), (Forward(port, "", 22),)))
    guest = Guest(networks)
    asked = packets.arp(1, A, IP_A, bytes(6), GATEWAY)
    guest.network.send(guest.port, [Frame(packets.ethernet(packets.BROADCAST, A, packets.ARP, asked))])  # it is heard of
    guest.take()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
        packet, segment = guest.segment()
        own, target = packets.read_ports(packet) or (0, 0)
        assert (packet.target, target) == (IP_A, 22) and segment.flags == SYN and segment.mss == 1460
        end = TcpEnd.answer(segment, 9, time.monotonic_ns())
        client.sendall(b"hello guest")
        client.shutdown(socket.SHUT_WR)
        assert run_tcp(guest, own, end, b"hello host", lambda heard: heard == b"hello guest", own=22) == b"hello guest"
        assert client.recv(100) == b"hello host"


def test_a_port_that_is_taken_is_told_and_what_was_granted_stays(networks: Networks) -> None:
    networks.grant("net0", A, parse_services("80=1"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {taken} of the loopback cannot be had"):
            networks.grant("net0", A, Services((), (Forward(taken, "web", 1),)))
    relay = networks.uplinks["net0"].uplink.relay
    assert relay is not None and relay.serves(A, "tcp", 80) and not relay.forwards()


def test_a_flood_of_connections_has_a_limit_and_others_are_served(networks: Networks) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    networks.set_uplink("net0", UplinkSpec(services=parse_services(f"80={listener.getsockname()[1]}")))
    flooder, guest = Guest(networks), Guest(networks, bytes.fromhex("00163e000002"))
    syn = Segment(1, 0, SYN, 1000, b"", 1460, 0)
    for own in range(1000, 1000 + 3 * MAX_FLOWS_EACH):
        flooder.segments(80, [syn], own)
    relay = networks.uplinks["net0"].uplink.relay
    assert relay is not None
    until(lambda: relay.counters.refused >= 2 * MAX_FLOWS_EACH)
    assert len(relay.flows) == MAX_FLOWS_EACH and relay.counters.refused == 2 * MAX_FLOWS_EACH
    guest.take(0.1)
    guest.segments(80, [syn])
    assert guest.segment()[1].flags == SYN | ACK
    listener.close()


def test_what_a_guest_had_open_goes_with_its_interface(networks: Networks) -> None:
    closed = threading.Event()

    def hear(client: socket.socket) -> None:
        while client.recv(100):
            pass
        closed.set()

    networks.grant("net0", A, parse_services(f"80={serve(hear)}"))
    guest = Guest(networks)
    guest.segments(80, [Segment(1, 0, SYN, 1000, b"", 1460, 0)])
    guest.take()
    relay = networks.uplinks["net0"].uplink.relay
    assert relay is not None and len(relay.flows) == 1
    networks.left("net0", A)
    assert closed.wait(PATIENCE_SECONDS) and not relay.flows and not networks.uplinks["net0"].granted.get(A)
    networks.left("net0", A)  # and once more, harmlessly


def test_a_segment_of_no_connection_is_reset(networks: Networks) -> None:
    networks.set_uplink("net0", UplinkSpec(services=parse_services("80=1")))
    guest = Guest(networks)
    guest.segments(80, [Segment(5, 1234, ACK, 100, b"lost")])
    _, answer = guest.segment()
    assert (answer.flags, answer.sequence) == (RST, 1234)


def test_a_frame_that_is_late_for_the_uplink_rings_no_stranger(networks: Networks) -> None:
    """A sender has its targets before the uplink goes, and delivers after."""
    networks.set_uplink("net0", UplinkSpec(services=parse_services("80=1")))
    port = networks.uplinks["net0"]
    networks.set_uplink("net0", None)
    packet = packets.ip(6, IP_A, GATEWAY, b"\x9c\x40\0\x50" + bytes(16))
    stranger = os.eventfd(0, os.EFD_NONBLOCK)  # has the number that the relay's bell had
    port.deliver([Frame(packets.ethernet(packets.UPLINK_MAC, A, packets.IPV4, packet), validated=True)])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(stranger)
    os.close(stranger)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([6, 17]), st.binary(max_size=80)), max_size=30))
def test_no_packet_ends_the_relay(bodies: list[tuple[int, bytes]]) -> None:
    networks = Networks()
    networks.set_uplink("net0", UplinkSpec(services=parse_services("80=1+udp:80=1")))
    guest = Guest(networks)
    for protocol, body in bodies:
        guest.say(packets.ip(protocol, IP_A, GATEWAY, b"\x9c\x40\0\x50" + body))
    relay = networks.uplinks["net0"].uplink.relay
    assert relay is not None
    guest.take(0.001)
    assert relay._thread.is_alive()
    networks.close()
    assert not relay._thread.is_alive()


def test_services_are_written_shortly() -> None:
    assert parse_services(" 8000+tcp:80=8080 udp:5353 in:2222=web:22+in:1=9") == Services(
        (Service("tcp", 8000, 8000), Service("tcp", 80, 8080), Service("udp", 5353, 5353)), (Forward(2222, "web", 22), Forward(1, "", 9))
    )
    assert parse_services("") == Services()


@pytest.mark.parametrize(
    ("text", "said"),
    [("0", "no port 0"), ("tcp:70000", "no port 70000"), ("80+80=81", "tcp:80 is there twice"), ("udp:53", "answers udp port 53 itself"),
     ("192.168.0.1:80", "is no service"), ("80=10.0.0.1:80", "is no service"), ("in:5", "is no service"), ("sctp:5", "is no service"),
     ("in:5=1+in:5=2", "in:5 is there twice"), ("+".join(map(str, range(1, 40))), "32 are the most")],
)  # fmt: skip
def test_a_wrong_service_is_named(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_services(text)
