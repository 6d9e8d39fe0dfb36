"""FIFO event channels against a guest's side written from the public header: order, priorities, masks, pages that come late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from emulator.abi.errno import EINVAL
from emulator.hypervisor.events import IPI, Port
from emulator.hypervisor.fifo import LINK_MASK, LINKED, MASKED, PENDING, Fifo
from emulator.hypervisor.refusal import Refusal

ARRAY, CONTROL = 1, 2  # frames


class Guest:
    """Two vCPUs, eight frames. `taken`: (vCPU, port) in the order the guest takes them off its queues."""

    def __init__(self, pages: bool = True) -> None:
        self.memory = memoryview(bytearray(8 * 4096))
        self.words = self.memory.cast("I")
        self.upcalls = [0, 0]
        held: list[int] = []
        tables = SimpleNamespace(get_type=lambda mfn, kind: held.append(mfn), put_type=held.remove)
        self.held = held
        vcpus = [SimpleNamespace(domain=SimpleNamespace(tables=tables), mark_upcall=lambda n=n: self._upcall(n)) for n in (0, 1)]
        self.fifo = Fifo(self.memory, cast("Any", vcpus))
        self.ports = {number: Port(IPI) for number in range(1, 40)}
        for vcpu in (0, 1):
            self.fifo.add_control(vcpu, CONTROL + vcpu, 64)
        if pages:
            self.fifo.add_page(ARRAY, self.ports)

    def _upcall(self, vcpu: int) -> None:
        self.upcalls[vcpu] += 1

    def word(self, port: int) -> int:
        return ARRAY << 10 | port

    def send(self, *ports: int) -> None:
        for port in ports:
            self.fifo.set_pending(port, self.ports[port])

    def take(self, vcpu: int) -> list[int]:
        """consume_one_event of drivers/xen/events/events_fifo.c, told from the header: highest priority first, each queue from its head."""
        control = ((CONTROL + vcpu) << 12 | 64) >> 2
        taken = []
        while ready := self.words[control]:
            queue = (ready & -ready).bit_length() - 1
            self.words[control] &= ~(1 << queue)
            port = self.words[control + 2 + queue]
            while port:
                at = self.word(port)
                link = self.words[at] & LINK_MASK
                self.words[at] &= ~(LINKED | LINK_MASK) & 0xFFFFFFFF
                if self.words[at] & PENDING and not self.words[at] & MASKED:
                    self.words[at] &= ~PENDING & 0xFFFFFFFF
                    taken.append(port)
                port = link
            self.words[control + 2 + queue] = 0
        return taken


def test_events_come_in_the_order_they_were_sent_and_once() -> None:
    guest = Guest()
    guest.send(5, 3, 9, 3, 5)
    assert guest.take(0) == [5, 3, 9]
    assert guest.upcalls == [1, 0]
    guest.send(3)
    assert guest.take(0) == [3]


def test_a_higher_priority_goes_first() -> None:
    guest = Guest()
    guest.ports[9].priority = 0
    guest.send(5, 3, 9)
    assert guest.take(0) == [9, 5, 3]


def test_a_masked_event_waits_for_its_unmasking() -> None:
    guest = Guest()
    guest.words[guest.word(4)] = MASKED
    guest.send(4)
    assert guest.take(0) == []
    assert guest.fifo.pending(4)
    guest.fifo.unmask(4, guest.ports[4])
    assert guest.take(0) == [4]


def test_a_port_that_moves_to_another_vcpu_leaves_both_queues_whole() -> None:
    guest = Guest()
    guest.send(4, 6)
    assert guest.take(0) == [4, 6]
    guest.ports[6].vcpu = 1
    guest.send(6, 4)
    assert guest.take(1) == [6]
    assert guest.take(0) == [4]
    guest.send(4, 6)
    assert (guest.take(0), guest.take(1)) == ([4], [6])


def test_a_number_used_again_on_another_vcpu_does_not_link_to_itself() -> None:
    guest = Guest()
    guest.ports[6].vcpu = 1
    guest.send(6)
    assert guest.take(1) == [6]
    guest.ports[6] = Port(IPI, 1)  # closed and bound anew
    guest.send(6)
    assert guest.take(1) == [6]


def test_what_was_raised_before_its_page_came_is_raised_then() -> None:
    guest = Guest(pages=False)
    guest.send(7)
    assert not guest.fifo.pending(7)
    guest.fifo.add_page(ARRAY, guest.ports)
    assert guest.take(0) == [7]


def test_state_is_saved_with_the_queues_half_full() -> None:
    guest = Guest()
    guest.send(5, 3)
    saved = guest.fifo.save()
    guest.fifo.load(saved)
    guest.send(8)
    assert guest.take(0) == [5, 3, 8]


@pytest.mark.parametrize("offset", [4, 4096 - 64])
def test_a_control_block_off_its_place_is_refused(offset: int) -> None:
    guest = Guest()
    with pytest.raises(Refusal) as refused:
        guest.fifo.add_control(0, CONTROL, offset)
    assert refused.value.errno == EINVAL


def test_going_back_gives_all_frames_back() -> None:
    guest = Guest()
    assert sorted(guest.held) == [ARRAY, CONTROL, CONTROL + 1]
    guest.fifo.release()
    assert not guest.held


def test_numbers_that_a_guest_says_are_in_a_queue_are_passed_over_a_page_at_a_time() -> None:
    guest = Guest()
    for port in range(40, 600):
        guest.words[guest.word(port)] |= LINKED
    numbers = guest.fifo.idle(38)
    assert [next(numbers) for _ in range(4)] == [38, 39, 600, 601]
    assert next(guest.fifo.idle(1024)) == 1024, "where there is no page yet"
    for port in range(1024):
        guest.words[guest.word(port)] |= LINKED
    assert next(guest.fifo.idle(1)) == 1024
