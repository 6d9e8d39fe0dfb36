"""What a disk does while its guest stands still, what it puts off, and what it leaves to its thread."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.abi.blkif import INDIRECT, SEGMENT
from emulator.dom0.backends.block.ring import MAX_HELD
from tests.unit.plugged_disk import Plugged, SlowDisk, request


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Plugged]:
    made = Plugged(tmp_path)
    yield made
    made.close()


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


def large(number: int, operation: int = 0) -> bytes:
    """The `number`-th 64 KiB of the disk, into one frame over and over."""
    return INDIRECT.pack(6, operation, 16, number, number * 128, 0, 130, *[0] * 7).ljust(112, b"\0")


def test_the_pieces_of_a_large_transfer_are_awaited_and_answered_with_one_event(plugged: Plugged) -> None:
    plugged.connect()
    device, side, memory = plugged.device, plugged.side, plugged.side.memory
    memory[30 * 4096 : 30 * 4096 + 128] = SEGMENT.pack(120, 0, 7) * 16
    memory[4096 + 12] = 1  # rsp_event: each answer is waited for
    for number in range(6):
        memory[4096 + 64 + 112 * number :][:112] = large(number)
    memory[4096] = 1
    device.kick()
    assert memory[4096 + 8] == 1 and side.events == 1 and memory[4096 + 4] == 2 and not side.late
    memory[4096 + 12] = 2
    memory[4096] = 2
    device.kick()
    assert memory[4096 + 8] == 1 and memory[4096 + 4] == 2 and side.late == [device.name]  # no event is asked for the third
    memory[4096] = 6
    device.serve_late()
    assert memory[4096 + 8] == 6 and side.events == 2 and memory[4096 + 4] == 7
    memory[4096 + 64 + 112 * 6 :][:224] = large(6) + large(7)
    memory[4096] = 7
    device.kick()  # put off again, and alone this time
    device.serve_late()
    assert memory[4096 + 8] == 7 and len(side.late) == 2
    memory[4096] = 8
    device.kick()
    assert memory[4096 + 8] == 8 and len(side.late) == 2


def test_nothing_is_put_off_behind_the_disk_or_in_a_recording(plugged: Plugged) -> None:
    plugged.connect()
    device, side, memory = plugged.device, plugged.side, plugged.side.memory
    memory[30 * 4096 : 30 * 4096 + 128] = SEGMENT.pack(120, 0, 7) * 16
    for number in range(3):
        memory[4096 + 64 + 112 * number :][:112] = large(number, 1)
    memory[4096] = 1
    device.kick()
    side.recorded = True
    memory[4096] = 2
    device.kick()
    device.worker.drain()
    assert device.queues[0].ring.in_flight == 1 and not side.late
    side.recorded = False
    slow = SlowDisk(device)
    memory[4096] = 3
    device.kick()  # put off, and then the host does not take it at once
    device.serve_late()
    assert side.late == [device.name] and device.queues[0].ring.in_flight == 2
    slow.held.set()
    device.worker.drain()
    for done in side.posted:
        device.answered(done)
    assert memory[4096 + 8] == 3


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
