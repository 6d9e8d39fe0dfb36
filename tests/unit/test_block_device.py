"""A virtual disk from plugging to unplugging, against a frontend that speaks through xenstore and a ring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.abi.xenbus import XENBUS_CLOSED, XENBUS_CLOSING, XENBUS_CONNECTED, XENBUS_INITIALISED, XENBUS_INITIALISING
from emulator.dom0.backends.block.queue import PersistentGrants
from emulator.dom0.grants import GrantError
from emulator.dom0.xenstore import Perm
from tests.unit.plugged_disk import BACK, FRONT, Plugged, SlowDisk, request


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Plugged]:
    made = Plugged(tmp_path)
    yield made
    made.close()


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
    other.close()


def test_what_a_disk_that_was_pulled_out_answers_late_is_not_its_successors(tmp_path: Path, plugged: Plugged) -> None:
    memory, first, slow = plugged.side.memory, plugged.device, SlowDisk(plugged.device)
    plugged.connect()
    memory[4096 + 64 :][:112] = request(1, 5, 120)
    memory[4096] = 1
    first.kick()
    first.detach(force=True)
    (tmp_path / "other.img").write_bytes(bytes(1 << 20))
    plugged.watch.unwatch(f"{FRONT}/state")
    plugged.plug(tmp_path / "other.img")
    memory[4096 : 2 * 4096] = bytes(4096)
    second = SlowDisk(plugged.device)
    plugged.connect()
    memory[4096 + 64 :][:112] = request(1, 6, 120)
    memory[4096] = 1
    plugged.device.kick()
    slow.held.set()
    first.close()
    for done in plugged.side.posted:
        plugged.device.answered(done)
    assert plugged.side.posted and plugged.device.queues[0].ring.in_flight == 1 and memory[4096 + 8] == 0
    second.held.set()


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
    other.close()


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
