"""A virtual disk from plugging to unplugging, against a frontend that speaks through xenstore and a ring."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from emulator.abi.blkif import INDIRECT, SEGMENT
from emulator.abi.xenbus import XENBUS_CLOSED, XENBUS_CLOSING, XENBUS_CONNECTED, XENBUS_INITIALISED, XENBUS_INITIALISING
from emulator.dom0.backends.block.device import BlockDevice
from emulator.dom0.backends.block.queue import PersistentGrants
from emulator.dom0.backends.block.ring import MAX_HELD
from emulator.dom0.diskspec import parse_disk
from emulator.dom0.grants import GrantError, GrantLook
from emulator.dom0.storage import Done, RawImage
from emulator.dom0.xenbus import FrontendWatch
from emulator.dom0.xenstore import Perm, Store, standard_nodes
from tests.patience import PATIENCE_SECONDS
from tests.unit.plain_grants import FRAMES, PlainGrants
from tests.unit.xenstore_client import Holder

DOMID, FRONT, BACK = 3, "/local/domain/3/device/vbd/51712", "/local/domain/0/backend/vbd/3/51712"


class Side:
    """A guest with 64 frames, port 9 offered; answers are kept until `deliver`."""

    def __init__(self) -> None:
        self.domid = DOMID
        self.recorded = False
        self.memory = memoryview(bytearray(FRAMES * 4096))
        self.plain = PlainGrants()
        self.grants: GrantLook = self.plain
        self.bound: set[int] = set()
        self.events = 0
        self.posted: list[tuple[Done, ...]] = []
        self.said: list[str] = []

    def bind(self, port: int, name: str) -> None:
        if port not in (9, 10, 11) or port in self.bound:
            raise ValueError(f"event channel {port} does not await Domain-0")
        self.bound.add(port)

    def unbind(self, port: int, name: str) -> None:
        self.bound.discard(port)

    def notify(self, port: int, name: str) -> None:
        self.events += 1

    def written(self, frames: Sequence[int]) -> None:
        pass

    def post(self, name: str, done: tuple[Done, ...]) -> None:
        self.posted.append(done)

    def log(self, level: str, text: str) -> None:
        self.said.append(text)


class Plugged:
    def __init__(self, folder: Path, access: str = "rw") -> None:
        path = folder / "disk.img"
        path.write_bytes(bytes(range(256)) * 4096)
        self.store, self.side, self.gone = Store(), Side(), list[BlockDevice]()
        nodes = standard_nodes(DOMID, name="g", uuid="0" * 36, memory_kib=4, maxmem_kib=4, vcpus=1, console_gfn=1, console_port=1,
                               store_gfn=2, store_port=2)  # fmt: skip
        self.store.introduce(DOMID, "g", nodes=nodes)
        spec = parse_disk(f"vdev=xvda,access={access},target={path}")
        self.device = BlockDevice(spec, RawImage(path, readonly=spec.readonly), self.side, self.store, self.gone.append)
        self.watch = FrontendWatch(self.store, Holder(), "vbd-states")
        self.device.advertise()
        self.watch.watch(f"{FRONT}/state", self.device.frontend_changed)

    def say(self, **nodes: object) -> None:
        for key, value in nodes.items():
            self.store.write(f"{FRONT}/{key.replace('_', '-')}", str(value))

    def back(self, key: str = "state") -> str | None:
        return self.store.read(f"{BACK}/{key}")

    def connect(self) -> None:
        self.say(ring_ref=101, event_channel=9, protocol="x86_64-abi", state=XENBUS_INITIALISED)

    def read_first_sector(self, frame: int = 1) -> bytes:
        """One request through the ring of a frame into frame 20."""
        ring = frame * 4096
        self.side.memory[ring + 64 :][:112] = request(0, 5, 120)
        self.side.memory[ring] = 1
        self.device.kick()
        self.device.worker.drain()
        for done in self.side.posted:
            self.device.answered(done)
        assert self.side.memory[ring + 8] == 1 and self.side.memory[ring + 64] == 5
        return bytes(self.side.memory[20 * 4096 : 20 * 4096 + 512])


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Plugged]:
    made = Plugged(tmp_path)
    yield made
    made.watch.close()
    made.device.close()


def test_the_nodes_are_those_of_libxl(plugged: Plugged) -> None:
    back = dict(plugged.store.subtree(BACK))
    for key, value in {"frontend": FRONT, "frontend-id": "3", "online": "1", "mode": "w", "dev": "xvda", "device-type": "disk", "state": "2",
                       "feature-flush-cache": "1", "feature-max-indirect-segments": "256"}.items():  # fmt: skip
        assert back[f"{BACK}/{key}"] == value
    front = dict(plugged.store.subtree(FRONT))
    assert front[f"{FRONT}/backend"] == BACK and front[f"{FRONT}/virtual-device"] == "51712" and front[f"{FRONT}/state"] == "1"
    assert plugged.store.permissions(f"{FRONT}/state") == (Perm(3, 0), Perm(0, 1))
    assert plugged.store.permissions(f"{BACK}/state") == (Perm(0, 0), Perm(3, 1))
    assert f"{BACK}/sectors" not in back


def test_a_frontend_connects_reads_and_closes(plugged: Plugged) -> None:
    plugged.connect()
    assert (plugged.back(), plugged.back("sectors"), plugged.back("info"), plugged.back("sector-size")) == ("4", "2048", "0", "512")
    assert plugged.side.bound == {9} and plugged.side.plain.uses == {101: 1}
    plugged.say(state=XENBUS_CONNECTED)
    assert plugged.read_first_sector() == bytes(range(256)) * 2
    assert plugged.side.plain.held == 1
    plugged.say(state=XENBUS_CLOSING)
    assert plugged.back() == "5" and plugged.side.plain.held == 0 and not plugged.side.bound
    plugged.say(state=XENBUS_CLOSED)
    assert plugged.back() == "6" and not plugged.gone


def test_a_second_driver_starts_anew_after_the_first(plugged: Plugged) -> None:
    plugged.connect()
    plugged.say(state=XENBUS_CLOSED)
    plugged.say(state=XENBUS_INITIALISING)
    assert plugged.back() == "2"
    plugged.side.memory[:] = bytes(len(plugged.side.memory))
    plugged.connect()
    assert plugged.back() == "4" and plugged.read_first_sector() == bytes(range(256)) * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"ring_ref": 9}, "grant 9 gives no access"), ({"ring_ref": "x"}, "its ring-ref is 'x'"),
     ({"event_channel": 4}, "event channel 4 does not await"),
     ({"protocol": "x86_32-abi"}, "its protocol is 'x86_32-abi'"), ({"ring_page_order": 1, "ring_ref0": 101, "ring_ref1": 500}, "grant 500"),
     ({"ring_page_order": 3}, "its ring-page-order is '3'"), ({"ring_ref": "9" * 500}, "its ring-ref is")],
)  # fmt: skip
def test_nonsense_in_xenstore_closes_that_device(plugged: Plugged, wrong: dict[str, object], said: str) -> None:
    plugged.say(**{"ring_ref": 101, "event_channel": 9, **wrong})
    plugged.say(state=XENBUS_INITIALISED)
    assert plugged.back() == "5" and said in plugged.device.trouble and said in plugged.side.said[0]
    assert plugged.side.plain.held == 0 and not plugged.side.bound
    for state in ("", "-1", "x", "999", "4" * 600, "3"):
        plugged.say(state=state)
    assert plugged.side.plain.held == 0


def test_a_ring_of_nonsense_closes_that_device(plugged: Plugged) -> None:
    plugged.connect()
    plugged.side.memory[4096 : 4096 + 4] = b"\xff\xff\xff\xff"
    plugged.device.kick()
    assert plugged.back() == "5" and "req_prod" in plugged.device.trouble and plugged.side.plain.held == 0


def test_detaching_asks_and_removes_when_the_guest_has_let_go(plugged: Plugged) -> None:
    plugged.connect()
    plugged.device.detach()
    assert plugged.back() == "5" and plugged.back("online") == "0" and not plugged.gone
    plugged.say(state=XENBUS_CLOSING)
    plugged.say(state=XENBUS_CLOSED)
    assert plugged.gone == [plugged.device] and plugged.store.subtree(BACK) == plugged.store.subtree(FRONT) == ()


def test_force_asks_nobody_and_a_removed_frontend_removes_the_device(tmp_path: Path, plugged: Plugged) -> None:
    plugged.connect()
    plugged.device.detach(force=True)
    assert plugged.gone and plugged.side.plain.held == 0 and plugged.store.subtree(BACK) == ()
    plugged.device.close()
    (tmp_path / "b").mkdir()
    other = Plugged(tmp_path / "b", "ro")
    other.connect()
    assert other.back("info") == "4" and other.back("mode") == "r" and other.back("feature-discard") is None
    other.store.remove(FRONT)
    assert other.gone and other.side.plain.held == 0
    other.watch.close()
    other.device.close()


def test_a_raw_disk_that_is_written_cannot_go_back(plugged: Plugged) -> None:
    plugged.connect()
    assert "cannot go back in time" in plugged.device.save().can_rewind


def test_recorded_answers_replace_the_disk(plugged: Plugged) -> None:
    """Back at a saved moment with a request in flight, and no disk: the answers of the log fit."""
    device, side = plugged.device, plugged.side
    side.recorded = True
    plugged.connect()
    side.memory[4096 + 64 :][:112] = request(0, 5, 120)
    side.memory[4096] = 1
    device.kick()
    state, before = device.save(), bytes(side.memory)
    device.worker.drain()
    log, side.posted = side.posted, []
    for done in log:
        device.answered(done)
    after = bytes(side.memory)
    assert after != before
    side.memory[:] = before
    device.live = False
    device.load(state)
    for done in log:
        device.answered(done)
    assert bytes(side.memory) == after and not side.posted


def request(operation: int, ident: int, gref: int) -> bytes:
    """The first sector of the disk, to or from the first of a frame."""
    return bytes([operation, 1]) + bytes(6) + bytes([ident]) + bytes(15) + bytes([gref, 0, 0, 0, 0, 0]) + bytes(82)


class SlowDisk:
    """The host has nothing in memory and takes nothing into it; writes wait until they are let go."""

    def __init__(self, device: BlockDevice) -> None:
        self.held = threading.Event()
        self._write = device.image.write
        device.image.write = self._late  # type: ignore[method-assign]
        device.image.write_from = lambda offset, size, views: False  # type: ignore[method-assign]

    def _late(self, offset: int, data: bytes) -> None:
        self.held.wait(PATIENCE_SECONDS)
        self._write(offset, data)


def test_what_the_host_has_in_memory_is_read_at_once_but_not_behind_a_write(plugged: Plugged) -> None:
    plugged.connect()
    assert plugged.read_first_sector() == bytes(range(256)) * 2 and not plugged.side.posted
    assert (plugged.device.counters.answered, plugged.device.counters.read_bytes) == (1, 512)
    slow = SlowDisk(plugged.device)
    memory = plugged.side.memory
    memory[20 * 4096 : 20 * 4096 + 512] = b"w" * 512
    memory[4096 + 64 + 112 :][:336] = request(1, 6, 120) + request(0, 7, 121) + request(0, 8, 122)
    memory[4096] = 3  # a read that comes with the write,
    plugged.device.kick()
    memory[4096] = 4  # and one that comes by itself
    plugged.device.kick()
    assert plugged.device.queues[0].ring.in_flight == 3
    slow.held.set()
    plugged.device.worker.drain()
    for done in plugged.side.posted:
        plugged.device.answered(done)
    for frame in (21, 22):
        assert bytes(memory[frame * 4096 : frame * 4096 + 512]) == b"w" * 512


def test_a_write_that_the_host_takes_at_once_is_answered_at_once_and_a_slow_one_when_it_is_done(plugged: Plugged) -> None:
    plugged.connect()
    device, memory = plugged.device, plugged.side.memory
    memory[20 * 4096 : 20 * 4096 + 512] = b"w" * 512
    memory[4096 + 64 :][:112] = request(1, 5, 120)
    memory[4096] = 1
    device.kick()
    assert memory[4096 + 8] == 1 and not plugged.side.posted and device.worker.idle
    assert device.counters.written_bytes == 512 and device.image.read(0, 1024) == b"w" * 512 + bytes(range(256)) * 2
    slow = SlowDisk(device)
    for number in (2, 3):
        memory[4096 + 64 + 112 * (number - 1) :][:112] = request(1, 5, 120)
        memory[4096] = number
        device.kick()
    assert device.queues[0].ring.in_flight == 2 and memory[4096 + 8] == 1
    slow.held.set()
    device.worker.drain()
    for done in plugged.side.posted:
        device.answered(done)
    assert memory[4096 + 8] == 3 and device.queues[0].ring.in_flight == 0


def test_a_write_that_fails_at_once_is_tried_and_told_by_the_thread(plugged: Plugged) -> None:
    plugged.connect()
    device, memory = plugged.device, plugged.side.memory

    def full(*arguments: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    device.image.write = device.image.write_from = full  # type: ignore[assignment,method-assign]
    memory[4096 + 64 :][:112] = request(1, 5, 120)
    memory[4096] = 1
    device.kick()
    device.worker.drain()
    for done in plugged.side.posted:
        device.answered(done)
    assert memory[4096 + 8] == 1 and device.counters.errors == 1 and "No space left" in device.counters.refused


def test_a_ring_has_so_much_in_flight_and_the_rest_waits_in_its_slots(plugged: Plugged) -> None:
    plugged.connect()
    device, memory = plugged.device, plugged.side.memory
    slow = SlowDisk(device)
    memory[30 * 4096 : 30 * 4096 + 2048] = SEGMENT.pack(120, 0, 7) * 256  # 1 MiB, the same frame over and over
    for number in range(20):
        memory[4096 + 64 + 112 * number :][:112] = INDIRECT.pack(6, 1, 256, number, 0, 0, 130, *[0] * 7).ljust(112, b"\0")
    memory[4096] = 20
    device.kick()
    ring = device.queues[0].ring
    assert ring.in_flight == MAX_HELD >> 20
    slow.held.set()
    while memory[4096 + 8] < 20:
        device.worker.drain()
        answers, plugged.side.posted = plugged.side.posted, []
        assert answers
        for done in answers:
            device.answered(done)
    assert memory[4096 + 8] == 20 and device.counters.written_bytes == 20 << 20


def queues(count: int) -> dict[str, object]:
    nodes: dict[str, object] = {"multi_queue_num_queues": count}
    for number in range(count):
        nodes |= {f"queue_{number}/ring_ref": 101 + number, f"queue_{number}/event_channel": 9 + number}
    return nodes


def test_several_queues_have_rings_and_channels_of_their_own(plugged: Plugged) -> None:
    assert plugged.back("multi-queue-max-queues") == "4"
    plugged.say(**queues(3), state=XENBUS_INITIALISED)
    assert plugged.back() == "4" and plugged.side.bound == {9, 10, 11} and plugged.side.plain.uses == {101: 1, 102: 1, 103: 1}
    for frame in (3, 1, 2):
        plugged.side.posted.clear()
        assert plugged.read_first_sector(frame) == bytes(range(256)) * 2
    plugged.say(state=XENBUS_CLOSED)
    assert plugged.side.plain.held == 0 and not plugged.side.bound


@pytest.mark.parametrize(("wrong", "said"), [
    ({"multi_queue_num_queues": 5}, "its multi-queue-num-queues is '5'"), ({"multi_queue_num_queues": 0}, "it asks for no queue"),
    ({"queue_1/event_channel": 9}, "event channel 9"), ({"queue_2/ring_ref": 700}, "grant 700"),
    ({"queue_2/ring_ref": ""}, "its queue-2/ring-ref is ''"),
    ({"feature_persistent": 7}, "its feature-persistent is '7'"),
])  # fmt: skip
def test_queues_of_nonsense_leave_nothing_held(plugged: Plugged, wrong: dict[str, object], said: str) -> None:
    plugged.say(**{**queues(3), **wrong}, state=XENBUS_INITIALISED)
    assert plugged.back() == "5" and said in plugged.device.trouble
    assert plugged.side.plain.held == 0 and not plugged.side.bound and not plugged.device.queues


def test_one_broken_queue_closes_the_device(plugged: Plugged) -> None:
    plugged.say(**queues(2), state=XENBUS_INITIALISED)
    plugged.side.memory[2 * 4096 : 2 * 4096 + 4] = b"\xff\xff\xff\xff"
    plugged.device.kick()
    assert plugged.back() == "5" and plugged.side.plain.held == 0 and not plugged.side.bound


def test_a_persistent_grant_is_mapped_once_and_let_go_at_the_end(tmp_path: Path) -> None:
    other = Plugged(tmp_path, "rw,persistent")
    assert other.back("feature-persistent") == "1"
    other.say(feature_persistent=1)
    other.connect()
    other.read_first_sector()
    assert other.side.plain.uses == {101: 1, 120: 1}
    other.side.plain.revoked.add(120)  # it is mapped: what its entry says now means nothing
    other.say(state=XENBUS_CONNECTED)
    state = other.device.save()
    assert state.queues[0].kept == ((120, 20),)
    other.say(state=XENBUS_CLOSED)
    assert other.side.plain.held == 0
    other.watch.close()
    other.device.close()


def test_persistent_grants_that_were_not_offered_are_not_kept(plugged: Plugged) -> None:
    assert plugged.back("feature-persistent") == "0"
    plugged.say(feature_persistent=1)
    plugged.connect()
    plugged.read_first_sector()
    assert plugged.side.plain.uses == {101: 1}


def test_the_table_of_persistent_grants_is_bounded(plugged: Plugged) -> None:
    plain = plugged.side.plain
    grants = PersistentGrants(plain, most=3)
    assert grants.look((110, 111), False) == [10, 11] and grants.look((112, 113, 110), True) == [12, 13, 10]
    assert plain.uses == {110: 1, 111: 1, 112: 1} and grants.look((114,), True) == [14]
    plain.readonly.add(140)
    few = PersistentGrants(plain)
    assert few.look((140,), False) == [40] and not few.kept
    with pytest.raises(GrantError, match="read-only"):
        few.look((140,), True)
    grants.release()
    assert plain.held == 0
