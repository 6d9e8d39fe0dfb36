"""A bare core over a few hand-mapped frames: what the CPU's tests run machine code on, without any hypervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.cpu import native
from emulator.cpu.core import RSP, Core
from emulator.machine.memory import MachineMemory

PRESENT, RW, USER, ACCESSED, DIRTY, NX = 1, 2, 4, 0x20, 0x40, 1 << 63
L4, L3, L2, L1 = 1, 2, 3, 4  # machine frames of the page tables
FRAMES = 64
CODE, READ_ONLY, DATA, STACK = 0x8000, 0x18000, 0x20000, 0x30000
ALIAS = 0x50000
"""Linear addresses equal machine addresses up to FRAMES frames; ALIAS is a second, writable, NX mapping of CODE's frame."""
UNMAPPED = 0x100000
NON_CANONICAL = 1 << 63


@dataclass(frozen=True)
class Trap:
    """What the core told of a trap. `error` and `cr2` are what the registers hold, whether or not the vector has one."""

    vector: int
    rip: int
    error: int
    cr2: int
    software: bool


class Bare:
    """A core in ring 3. Traps are collected; the first one stops it unless `on_trap` is set."""

    def __init__(self, translation_buffer: int = 1 << 20) -> None:
        self.memory = MachineMemory(FRAMES, "bare")
        words = self.memory.words
        table = PRESENT | RW | USER
        words[L4 << 9] = L3 << 12 | table
        words[L3 << 9] = L2 << 12 | table
        words[L2 << 9] = L1 << 12 | table
        for frame in range(8, FRAMES):
            self.map(frame << 12, frame << 12, table | (0 if CODE <= frame << 12 < READ_ONLY else NX))
        self.map(READ_ONLY, READ_ONLY, PRESENT | USER | NX)
        self.map(ALIAS, CODE, table | NX)
        self.core = Core(self.memory.address, self.memory.size, translation_buffer=translation_buffer)
        self.core.cr3 = L4 << 12
        self.core.regs[RSP] = STACK + 0x800
        self.traps: list[Trap] = []
        self.on_trap: Callable[[int], None] | None = None
        self.core.on_trap = self._trap

    def map(self, va: int, target: int, flags: int) -> None:
        """Write an L1 entry; the caller flushes when it was in use."""
        self.memory.words[(L1 << 9) + (va >> 12)] = target | flags

    def _trap(self, vector: int) -> None:
        core = self.core
        self.traps.append(Trap(vector, core.rip, core.error_code, core.cr2, core.software_interrupt))
        if self.on_trap is None:
            core.stop()
        else:
            self.on_trap(vector)

    def load(self, code: str | bytes, at: int = CODE) -> None:
        """Machine code (hex) at an address; the core goes on there."""
        data = bytes.fromhex(code) if isinstance(code, str) else code
        self.memory.bytes[at : at + len(data)] = data
        self.core.forget_frame(at >> 12)  # the host wrote
        self.core.rip = at

    def run(self, counts: int = 100_000) -> int:
        """Run for so many counts at most."""
        control = self.core.control
        control[native.LIMIT] = control[native.COUNT] + counts
        return self.core.run()

    def trap(self, code: str | bytes) -> Trap:
        """Run code that must trap; the trap."""
        self.load(code)
        self.traps.clear()
        error = self.run()
        assert error == 0, f"Unicorn error {error}"
        assert len(self.traps) == 1, f"{len(self.traps)} traps, RIP {self.core.rip:#x}"
        return self.traps[0]

    def close(self) -> None:
        self.core.close()
        self.memory.close()
