"""Reading and writing a guest's memory by its own virtual addresses: Xen's copy_from_guest and copy_to_guest.

The walk follows the live CR3 through 4-level tables in the machine memory:

    va  63..48 sign | 47..39 L4 | 38..30 L3 | 29..21 L2 | 20..12 L1 | 11..0 offset

A guest's pages all carry USER (its kernel runs in ring 3), so a page without it belongs to the hypervisor and is refused,
as is every address in the hypervisor's range (access_ok in asm-x86/x86_64/uaccess.h).
"""

from __future__ import annotations

from typing import Final, Protocol

from emulator.abi.errno import EFAULT
from emulator.abi.xen import ACCESSED, DIRTY, FRAME_MASK, HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, PRESENT, PSE, RW, USER
from emulator.hypervisor.memory.frames import FrameTable
from emulator.hypervisor.refusal import Refusal
from emulator.machine.memory import MachineMemory

_TABLE: Final = FRAME_MASK >> 3  # where a table's first 64-bit word is, in an entry shifted by 3
_TABLE_BITS: Final = PRESENT | PSE


class Translations(Protocol):
    """What of the core the guest's memory needs."""

    @property
    def cr3(self) -> int: ...
    def forget_frame(self, mfn: int) -> None: ...


class GuestMemory:
    """Walks and copies for one domain. Addresses are guest virtual; failures raise Refusal(EFAULT)."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, core: Translations) -> None:
        self._bytes, self._words, self._frames = memory.bytes, memory.words, memory.frames
        self._executable, self._core = frames.executable, core

    def entry_index(self, va: int) -> int:
        """Index (in 64-bit words of the machine memory) of the L1 entry that maps `va`; -1 when an upper level is absent or a superpage."""
        words = self._words
        entry = words[(self._core.cr3 >> 3 & _TABLE) + (va >> 39 & 511)]  # three steps in a row: every hypercall walks, a loop costs a third more
        if entry & _TABLE_BITS != PRESENT:
            return -1
        entry = words[(entry >> 3 & _TABLE) + (va >> 30 & 511)]
        if entry & _TABLE_BITS != PRESENT:
            return -1
        entry = words[(entry >> 3 & _TABLE) + (va >> 21 & 511)]
        if entry & _TABLE_BITS != PRESENT:
            return -1
        return (entry >> 3 & _TABLE) + (va >> 12 & 511)

    def _writable_above(self, va: int) -> bool:
        """Whether the levels above the leaf let `va` be written: a linear map is read-only from its top, and its leaves are tables."""
        words = self._words
        table = self._core.cr3 & FRAME_MASK
        for shift in (39, 30, 21):
            entry = words[(table >> 3) + (va >> shift & 511)]
            if not entry & RW:
                return False
            table = entry & FRAME_MASK
        return True

    def offset(self, va: int, write: bool = False) -> int:
        """Where the byte at `va` lies in the machine memory. Marks the entry accessed (and dirty), as the processor would."""
        if 0x800000000000 <= va < HYPERVISOR_VIRT_END:
            raise Refusal(EFAULT, f"{va:#x} is an address of the hypervisor" if va >= HYPERVISOR_VIRT_START else f"{va:#x} is no canonical address")
        words = self._words
        index = self.entry_index(va)
        entry = words[index] if index >= 0 else 0
        need = PRESENT | USER | RW if write else PRESENT | USER
        if entry & need != need:
            raise Refusal(EFAULT, f"address {va:#x} is not {'writable' if entry & PRESENT else 'mapped'}")
        if write and not self._writable_above(va):
            raise Refusal(EFAULT, f"address {va:#x} is not writable")
        mark = ACCESSED | DIRTY if write else ACCESSED
        if entry & mark != mark:
            words[index] = entry | mark
        if write and self._executable[(entry & FRAME_MASK) >> 12]:
            self._core.forget_frame((entry & FRAME_MASK) >> 12)
        return entry & FRAME_MASK | va & 0xFFF

    @staticmethod
    def check_range(va: int) -> None:
        """guest_handle_okay: whether a list may begin at `va` (one that begins below the hypervisor's range meets a hole before it)."""
        if 0x800000000000 <= va < HYPERVISOR_VIRT_END:
            raise Refusal(EFAULT, f"a list at {va:#x}, which is the hypervisor's or no address")

    def read(self, va: int, size: int) -> bytes:
        at = self.offset(va)
        room = 4096 - (va & 0xFFF)
        if size <= room:
            return bytes(self._bytes[at : at + size])
        parts = [bytes(self._bytes[at : at + room])]
        done = room
        while done < size:
            at = self.offset(va + done)
            take = min(4096, size - done)
            parts.append(bytes(self._bytes[at : at + take]))
            done += take
        return b"".join(parts)

    def write(self, va: int, data: bytes) -> None:
        size, done = len(data), 0
        while done < size:
            at = self.offset(va + done, write=True)
            take = min(4096 - (va + done & 0xFFF), size - done)
            self._bytes[at : at + take] = data[done : done + take]
            done += take

    def read_u64(self, va: int) -> int:
        if va & 7:
            return int.from_bytes(self.read(va, 8), "little")
        return self._words[self.offset(va) >> 3]

    def read_u32(self, va: int) -> int:
        return int.from_bytes(self.read(va, 4), "little")

    def write_u64(self, va: int, value: int) -> None:
        self.write(va, value.to_bytes(8, "little"))

    def write_u32(self, va: int, value: int) -> None:
        self.write(va, value.to_bytes(4, "little"))
