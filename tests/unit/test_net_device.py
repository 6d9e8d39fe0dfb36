"""An interface with its handshake, played as a script: nodes, rings and frames in, nodes and frames out."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.abi.netif import EXTRA_GSO, EXTRA_MCAST, RX_REQUEST, TX_REQUEST
from emulator.abi.ring import REQ_PROD, RING_HEADER
from emulator.abi.xenbus import XENBUS_CLOSED, XENBUS_CLOSING, XENBUS_CONNECTED, XENBUS_INIT_WAIT, XENBUS_INITIALISING
from emulator.dom0.backends.net.device import Vif
from emulator.dom0.backends.net.queues import LAZY_SLOTS
from emulator.dom0.network import Capture, Frame, Network, packets
from emulator.dom0.vifspec import parse_vif
from emulator.dom0.xenstore import Store
from tests.unit.net_frontend import RX_FRAME, TX_FRAME, PlainSide
from tests.unit.test_network import sums_are_right, tcp

PLAIN = {"tx-ring-ref": str(100 + TX_FRAME), "rx-ring-ref": str(100 + RX_FRAME), "event-channel": "5", "request-rx-copy": "1"}
ABLE = {**PLAIN, "feature-sg": "1", "feature-gso-tcpv4": "1", "feature-ipv6-csum-offload": "1"}


def _queue(number: int, **changed: str) -> dict[str, str]:
    """The nodes of one of two queues; the second has its rings in frames 8 and 9."""
    refs = (TX_FRAME, RX_FRAME) if not number else (8, 9)
    nodes = {"tx-ring-ref": str(100 + refs[0]), "rx-ring-ref": str(100 + refs[1]), "event-channel": changed.get("event", str(5 + number))}
    return {f"queue-{number}/{key}": value for key, value in nodes.items()}


class Guest:
    """A frontend, its side, and the interface between it and the network."""

    def __init__(self, domid: int, network: Network, store: Store, spec: str = "") -> None:
        self.side, self.store, self.removed = PlainSide(domid), store, False
        self.vif = Vif(parse_vif(spec, domain=f"guest{domid}", number=0), network, self.side, store, self._gone)
        self.vif.advertise()

    def _gone(self, vif: Vif) -> None:
        self.removed = True
        vif.close()

    def connect(self, nodes: dict[str, str]) -> None:
        for key, value in nodes.items():
            self.store.write(f"{self.vif.front}/{key}", value)
        self.state(XENBUS_CONNECTED)

    def state(self, state: int) -> None:
        self.store.write(f"{self.vif.front}/state", str(state))
        self.vif.frontend_changed(str(state))

    def back(self, key: str) -> str | None:
        return self.store.read(f"{self.vif.back}/{key}")

    def kick(self) -> None:
        self.vif.kick()

    def run(self) -> None:
        """Apply the messages that were posted."""
        while self.side.posted:
            name, frames = self.side.posted.pop(0)
            assert name == self.vif.event_name
            self.vif.received(frames)


@pytest.fixture
def pair() -> tuple[Guest, Guest]:
    network, store = Network("net0"), Store()
    a, b = Guest(1, network, store), Guest(2, network, store)
    a.connect(ABLE)
    b.connect(ABLE)
    return a, b


def to(a: Guest, b: Guest, data: bytes) -> bytes:
    """A frame from `a` to `b`, around the Ethernet payload."""
    return b.vif.spec.mac + a.vif.spec.mac + data


def test_the_nodes_are_libxls_and_the_states_go_their_way() -> None:
    store = Store()
    guest = Guest(3, Network("net0"), store, "mac=00:16:3e:11:22:33,bridge=net0,rate=10Mb/s")
    assert guest.back("state") == str(XENBUS_INIT_WAIT)
    shown = {key: guest.back(key) for key in ("frontend", "frontend-id", "handle", "bridge", "mac", "rate", "type", "feature-sg", "feature-rx-copy")}
    assert shown == {"frontend": "/local/domain/3/device/vif/0", "frontend-id": "3", "handle": "0", "bridge": "net0", "mac": "00:16:3e:11:22:33",
                     "rate": "62500,50000", "type": "vif", "feature-sg": "1", "feature-rx-copy": "1"}  # fmt: skip
    assert store.read(f"{guest.vif.front}/backend") == "/local/domain/0/backend/vif/3/0" and store.read(f"{guest.vif.front}/mac") == shown["mac"]
    guest.connect(PLAIN)
    assert guest.back("state") == str(XENBUS_CONNECTED) and guest.side.bound == {5: "vif-0"} and guest.side.grants.held == 2
    guest.state(XENBUS_CLOSING)
    assert guest.back("state") == str(XENBUS_CLOSING) and not guest.side.bound and not guest.side.grants.held
    guest.state(XENBUS_CLOSED)
    guest.state(XENBUS_INITIALISING)  # another kernel
    guest.connect(PLAIN)
    assert guest.back("state") == str(XENBUS_CONNECTED)
    guest.vif.detach()
    assert guest.back("state") == str(XENBUS_CLOSING)
    guest.state(XENBUS_CLOSED)
    assert guest.removed and guest.back("state") is None and store.read(f"{guest.vif.front}/mac") is None
    assert not guest.vif.network.report().ports


def test_a_guest_is_told_that_its_frames_were_sent_when_it_is_told_of_others_or_when_they_are_many(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    told = len(a.side.notified)
    sent = to(a, b, bytes(60))
    for number in range(1, 3 * LAZY_SLOTS):
        a.side.send(sent)
        a.kick()
        assert a.side.lazily == [5]  # it looks at no answer, so it asks for no second event
        assert len(a.side.notified) - told == number // (LAZY_SLOTS + 1)
    state = a.vif.queues[0].save()
    assert state.freed == 2 * (LAZY_SLOTS + 1)
    assert len(a.side.answers()) == 3 * LAZY_SLOTS - 1  # it has looked, and wants to hear of the next
    a.side.send(sent)
    a.kick()
    assert a.side.lazily == [5, 5]


def test_a_frame_crosses_as_a_message_and_never_otherwise(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    b.side.buffers(4)
    sent = to(a, b, b"\x08\x00" + bytes(range(100)))
    a.side.send(sent, flags=2)
    a.kick()
    assert a.side.answers() == [(1, 0)] and not b.side.received() and len(b.side.posted) == 1
    b.run()
    assert b.side.received() == [(sent, 1, b"")] and b.side.notified[-1] == 5
    assert (a.vif.counters.tx_bytes, b.vif.counters.rx_bytes) == (114, 114)


def test_offloads_pass_between_two_that_have_them(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    b.side.buffers(8)
    large = to(a, b, tcp(bytes(8000))[12:])
    a.side.send(large, flags=1, extras=(EXTRA_GSO.pack(1, 0, 1448, 1, 0, 0),))
    a.kick()
    b.run()
    ((data, flags, extra),) = b.side.received()
    assert data == large and flags & 3 == 3 and extra[2:4] == (1448).to_bytes(2, "little")


def test_a_plain_frontend_gets_what_a_wire_would_bring() -> None:
    network, store = Network("net0"), Store()
    a, b = Guest(1, network, store), Guest(2, network, store)
    a.connect(ABLE)
    b.connect({**PLAIN, "feature-no-csum-offload": "1"})
    b.side.buffers(16)
    a.side.send(to(a, b, tcp(bytes(8000))[12:]), flags=1, extras=(EXTRA_GSO.pack(1, 0, 1448, 1, 0, 0),))
    a.side.send(to(a, b, tcp(b"small")[12:]), flags=1, ident=20)
    a.kick()
    b.run()
    got = b.side.received()
    assert len(got) == 7 and all(sums_are_right(data) and not flags & ~1 and not extra for data, flags, extra in got)


def test_multicast_is_filtered_for_a_frontend_that_asks() -> None:
    network, store = Network("net0"), Store()
    a, b = Guest(1, network, store), Guest(2, network, store)
    a.connect(ABLE)
    b.connect({**ABLE, "request-multicast-control": "1"})
    b.side.buffers(8)
    group, other = bytes.fromhex("01005e000001"), bytes.fromhex("01005e000002")
    b.side.send(b"", extras=(EXTRA_MCAST.pack(2, 0, group),))
    b.kick()
    for number, target in enumerate((group, other, b"\xff" * 6)):
        a.side.send(target + a.vif.spec.mac + b"\x08\x00" + bytes(50), ident=number)
    a.kick()
    b.run()
    assert [data[:6] for data, _, _ in b.side.received()] == [group, b"\xff" * 6]


def test_a_rate_limit_leaves_packets_in_their_slots_until_it_is_time() -> None:
    network, store = Network("net0"), Store()
    a, b = Guest(1, network, store, "rate=80Kb/s"), Guest(2, network, store)  # 500 bytes every 50 ms
    a.connect(ABLE)
    b.connect(ABLE)
    b.side.buffers(8)
    for number in range(3):
        a.side.send(to(a, b, b"\x08\x00" + bytes(386)), ident=number)
    a.kick()
    a.kick()
    assert a.side.answers() == [(0, 0)] and a.side.wakes == [50_000_000]
    a.side.clock = a.side.wakes[0]
    a.vif.received(())
    assert a.side.answers() == [(1, 0)] and a.side.wakes[1:] == [100_000_000]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ({"tx-ring-ref": "9999"}, "gives no access"),
        ({"tx-ring-ref": "-1"}, "its tx-ring-ref is"),
        ({"rx-ring-ref": "x" * 300}, "its rx-ring-ref is"),
        ({"rx-ring-ref": str(100 + TX_FRAME)}, "two rings are one"),
        ({"event-channel": "77"}, "does not await Domain-0"),
        ({"event-channel-tx": "5", "event-channel-rx": "5"}, "two rings are one"),
        ({"multi-queue-num-queues": "2"}, "its queue-0/tx-ring-ref is None"),
        ({"multi-queue-num-queues": "9"}, "9 queues, 8 are the most"),
        ({"multi-queue-num-queues": "0"}, "0 queues"),
        ({**_queue(0), **_queue(1, event="77"), "multi-queue-num-queues": "2"}, "does not await Domain-0"),
        ({**_queue(0), **_queue(1, event="5"), "multi-queue-num-queues": "2"}, "does not await Domain-0"),
        ({"request-rx-copy": "0"}, "rx-copy"),
        ({"feature-sg": "maybe"}, "its feature-sg is 'maybe'"),
    ],
)
def test_a_frontend_that_cannot_be_connected_is_closed_with_a_reason(nodes: dict[str, str], why: str) -> None:
    guest = Guest(1, Network("net0"), Store())
    guest.side.refuse.add(77)
    guest.connect({**PLAIN, **nodes})
    assert why in guest.vif.trouble and guest.back("state") == str(XENBUS_CLOSING)
    assert not guest.side.grants.held and not guest.side.bound and why in guest.side.said[0]


@pytest.mark.parametrize("hurt", ["index", "grant", "buffer"])
def test_a_hostile_frontend_loses_its_interface_and_nobody_else_notices(pair: tuple[Guest, Guest], hurt: str) -> None:
    a, b = pair
    if hurt == "index":
        b.side.set(TX_FRAME, REQ_PROD, 5000)
        b.kick()
    elif hurt == "grant":
        b.side.send(to(b, a, bytes(60)))
        b.side.grants.revoked.update(range(116, 140))
        b.kick()
    else:
        b.side.buffers(2)
        b.side.grants.revoked.update(range(140, 160))
        a.side.send(to(a, b, b"\x08\x00" + bytes(60)))
        a.kick()
        b.run()
    assert b.vif.trouble and b.back("state") == str(XENBUS_CLOSING) and b.side.grants.held == 0
    a.side.send(to(a, b, b"\x08\x00" + bytes(60)), ident=9)
    a.kick()
    b.run()
    assert a.side.answers()[-1] == (9, 0) and not a.vif.trouble and b.vif.counters.rx_dropped >= 1


def test_a_receiver_that_does_not_take_its_messages_has_a_bound(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    frame = Frame(to(a, b, b"\x08\x00" + bytes(60000)))
    for _ in range(300):
        b.vif.deliver([frame])
    assert sum(len(one.data) for _, frames in b.side.posted for one in frames) <= 8 << 20 and b.vif.counters.rx_dropped > 100
    b.run()
    b.vif.deliver([frame])
    assert len(b.side.posted) == 1


def test_a_capture_sees_both_ways(pair: tuple[Guest, Guest], tmp_path: Path) -> None:
    a, b = pair
    capture = b.vif.capture = Capture(tmp_path / "b.pcapng", b.vif.name)
    b.side.buffers(4)
    a.side.send(to(a, b, b"\x08\x00" + bytes(60)))
    a.kick()
    b.run()
    b.side.send(to(b, a, b"\x08\x00" + bytes(60)))
    b.kick()
    assert b.vif.stop_capture() is capture and capture.frames == 2 and b.vif.capture is None


def test_a_saved_interface_goes_back_with_its_guest(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    b.side.buffers(1)
    for number in range(3):
        a.side.send(to(a, b, b"\x08\x00" + bytes([number]) * 60), ident=number)
    a.kick()
    b.run()
    state, memory = b.vif.save(), bytes(b.side.memory)
    assert len(state.queues) == 1 and len(state.queues[0].waiting) == 2
    b.side.buffers(5)
    b.kick()
    assert len(b.side.received()) == 3
    b.side.memory[:] = memory
    b.side.prod[RX_FRAME], b.side.cons[RX_FRAME] = 1, 0
    b.vif.load(state)
    b.side.buffers(5)
    b.kick()
    assert [data[14] for data, _, _ in b.side.received()] == [0, 1, 2]


def test_queues_share_the_frames_by_flow_and_each_sends(pair: tuple[Guest, Guest]) -> None:
    a, _ = pair
    c = Guest(3, a.vif.network, a.store)
    c.connect({"multi-queue-num-queues": "2", "request-rx-copy": "1", "feature-sg": "1", **_queue(0), **_queue(1)})
    assert c.back("multi-queue-max-queues") == "8" and len(c.vif.queues) == 2 and c.side.bound == {5: "vif-0", 6: "vif-0"}
    c.side.buffers(64)
    for index in range(64):
        RX_REQUEST.pack_into(c.side.memory, 9 * 4096 + RING_HEADER + index * RX_REQUEST.size, index, 0, 160)
    c.side.set(9, REQ_PROD, 64)
    for port in [*range(1, 21)] * 2:
        a.vif.network.send(a.vif.port, [Frame(to(a, c, packets.IPV4 + packets.udp(b"\x0a\0\0\1", port, b"\x0a\0\0\2", 7, bytes([port]))))])
    c.run()
    first = [data[-1] for data, _, _ in c.side.received()]
    second = c.vif.queues[1].rx.rsp_prod
    assert len(first) + second == 40 and second > 4 and len(first) > 4
    assert first[: len(first) // 2] == first[len(first) // 2 :]  # a flow stays in its queue, in order
    data = to(c, a, b"\x08\x00" + bytes(50))
    c.side.page(20)[: len(data)] = data
    TX_REQUEST.pack_into(c.side.memory, 8 * 4096 + RING_HEADER, 120, 0, 0, 1, len(data))
    c.side.set(8, REQ_PROD, 1)
    c.kick()
    assert c.vif.counters.tx_frames == 1 and [frame.data for _, frames in a.side.posted for frame in frames] == [data]
    state = c.vif.save()
    c.vif.load(state)
    assert [queue.place for queue in c.vif.queues] == [saved.place for saved in state.queues] and c.vif.queues[1].tx.req_cons == 1
    c.side.set(8, REQ_PROD, 5000)
    c.kick()
    assert "sending: req_prod" in c.vif.trouble and not c.side.bound and not c.side.grants.held
