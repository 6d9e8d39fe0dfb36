"""FIFO event channels (xen/common/event_fifo.c, design in docs of Xen 4.4): a word a port in pages of the guest's, and sixteen queues a vCPU.

    event word   31 PENDING | 30 MASKED | 29 LINKED | 28 BUSY | 16..0 LINK: the next port of the queue
    control block of a vCPU: u32 ready (a bit a queue), u32 reserved, u32 head[16]

Xen links an event at its queue's tail when it is pending, unmasked and not linked; the guest takes events off at the head, clears LINKED and
finds the next in LINK. A domain begins with two levels and changes over with its first control block, for good (but for a reset).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emulator.abi.errno import EINVAL, ENOSPC
from emulator.hypervisor.memory.frames import WRITABLE
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.events import Port
    from emulator.hypervisor.vcpu import Vcpu

PENDING, MASKED, LINKED, BUSY = 1 << 31, 1 << 30, 1 << 29, 1 << 28
LINK_BITS: Final = 17
LINK_MASK: Final = (1 << LINK_BITS) - 1
PORTS: Final = 1 << LINK_BITS
QUEUES: Final = 16
DEFAULT_PRIORITY: Final = 7
_CONTROL_BYTES: Final = 8 + 4 * QUEUES
_WORDS_A_PAGE: Final = 1024


class Fifo:
    """The queues of one domain. `memory`: the whole machine memory."""

    def __init__(self, memory: memoryview, vcpus: list[Vcpu]) -> None:
        self._words = memory.cast("I")
        self._vcpus = vcpus
        self._pages: list[int] = []  # frames of the event array
        self._controls = [0] * len(vcpus)  # 32-bit word index of each control block, 0: none yet
        self._frames: list[int] = []  # those of the control blocks
        self._tails: dict[tuple[int, int], int] = {}  # (vCPU, priority) -> port
        self._last: dict[int, tuple[int, int]] = {}  # port -> the queue it was in last, whoever had that number then

    def _index(self, number: int) -> int:
        """The event word of a port; -1 while its page is missing."""
        page = number // _WORDS_A_PAGE
        return self._pages[page] << 10 | number % _WORDS_A_PAGE if page < len(self._pages) else -1

    # --- set-up ----------------------------------------------------------------------------------------------------------------

    def add_control(self, vcpu: int, mfn: int, offset: int) -> None:
        """EVTCHNOP_init_control of one vCPU, once."""
        if offset > 4096 - _CONTROL_BYTES or offset & 7:
            raise Refusal(EINVAL, f"a control block at offset {offset:#x} of its page")
        if self._controls[vcpu]:
            raise Refusal(EINVAL, f"vCPU {vcpu} has a control block already")
        self._take(mfn)
        self._frames.append(mfn)
        self._controls[vcpu] = (mfn << 12 | offset) >> 2

    def add_page(self, mfn: int, ports: dict[int, Port]) -> None:
        """EVTCHNOP_expand_array; events that waited for the page are raised."""
        if len(self._pages) * _WORDS_A_PAGE >= PORTS:
            raise Refusal(ENOSPC, f"the event array has all its {len(self._pages)} pages")
        self._take(mfn)
        first = len(self._pages) * _WORDS_A_PAGE
        self._pages.append(mfn)
        for number in sorted(number for number in ports if first <= number < first + _WORDS_A_PAGE):
            if ports[number].held:
                ports[number].held = False
                self.set_pending(number, ports[number])

    def _take(self, mfn: int) -> None:
        self._vcpus[0].domain.tables.get_type(mfn, WRITABLE)

    def release(self) -> None:
        """Back to two levels: the guest's pages are its own again."""
        for mfn in (*self._pages, *self._frames):
            self._vcpus[0].domain.tables.put_type(mfn)

    # --- events ----------------------------------------------------------------------------------------------------------------

    def set_pending(self, number: int, port: Port) -> bool:
        """Whether the event is news (evtchn_fifo_set_pending)."""
        at, words = self._index(number), self._words
        if at < 0:
            port.held = True
            return False
        control = self._controls[port.vcpu]
        if not control:
            return False
        word = words[at]
        news = not word & PENDING
        word |= PENDING
        if word & (MASKED | LINKED):
            words[at] = word
            return news
        words[at] = word | LINKED
        queue = (port.vcpu, port.priority)
        last = self._last.get(number, queue)
        if self._tails.get(last, 0) == number:
            self._tails[last] = 0  # its old queue is empty now
        self._last[number] = queue
        if not self._append(self._tails.get(queue, 0), number):
            words[control + 2 + port.priority] = number
            if not words[control] >> port.priority & 1:
                words[control] |= 1 << port.priority
                self._vcpus[port.vcpu].mark_upcall()
        self._tails[queue] = number
        return news

    def _append(self, tail: int, number: int) -> bool:
        """Link the tail to `number` when it is still in the queue."""
        at = self._index(tail) if tail else -1
        if at < 0 or not self._words[at] & LINKED:
            return False
        self._words[at] = self._words[at] & ~(BUSY | LINK_MASK) & 0xFFFFFFFF | number
        return True

    def unmask(self, number: int, port: Port) -> None:
        at = self._index(number)
        if at >= 0:
            self._words[at] &= ~MASKED & 0xFFFFFFFF
            if self._words[at] & PENDING:
                self.set_pending(number, port)

    def clear(self, number: int) -> None:
        at = self._index(number)
        if at >= 0:
            self._words[at] &= ~PENDING & 0xFFFFFFFF

    def pending(self, number: int) -> bool:
        at = self._index(number)
        return at >= 0 and bool(self._words[at] & PENDING)

    def masked(self, number: int) -> bool:
        at = self._index(number)
        return at < 0 or bool(self._words[at] & MASKED)

    def idle(self, first: int) -> Iterator[int]:
        """The numbers from `first` on that are in no queue. A closed port that still is must not be used again yet; a guest may say so of all."""
        for page in range(first // _WORDS_A_PAGE, len(self._pages)):
            words = np.frombuffer(self._words[self._pages[page] << 10 : self._pages[page] + 1 << 10], dtype=np.uint32)
            numbers = np.flatnonzero(words & LINKED == 0) + page * _WORDS_A_PAGE
            yield from numbers[numbers >= first].tolist()
        yield from range(max(first, len(self._pages) * _WORDS_A_PAGE), PORTS)

    # --- state -----------------------------------------------------------------------------------------------------------------

    def save(self) -> tuple[Any, ...]:
        return tuple(self._pages), tuple(self._controls), tuple(self._frames), dict(self._tails), dict(self._last)

    def load(self, state: tuple[Any, ...]) -> None:
        pages, controls, frames, tails, last = state
        self._pages, self._controls, self._frames, self._tails = list(pages), list(controls), list(frames), dict(tails)
        self._last = dict(last)
