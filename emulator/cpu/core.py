"""One emulated x86-64 core over one machine address space: the part of a domain that executes.

A core runs guest code in ring 3, paging on, until its budget is spent (`Control.LIMIT`) or a handler lowers the limit. Every
trap (exception, software interrupt, SYSCALL, SYSENTER, CPUID, invalid instruction) calls `on_trap(vector)` between two
translation blocks; the handler reads and writes the registers in place and returns to resume the guest.

State is exposed as memory views over Unicorn's own CPUX86State: `regs` (16 words in x86 encoding order: rax rcx rdx rbx rsp
rbp rsi rdi r8 … r15) and `env` (64-bit words; see `layout`). A core belongs to one thread at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from emulator.cpu import fpu, native
from emulator.cpu.instance import Instance
from emulator.cpu.layout import (
    ENV_CC_OP,
    ENV_CC_SRC,
    ENV_CR,
    ENV_DF,
    ENV_EFLAGS,
    ENV_HFLAGS,
    ENV_RIP,
    ENV_SEGMENTS,
    SEGMENT_BYTES,
    find_layout,
)
from emulator.cpu.libunicorn import CTL_FLUSH_TB, load
from emulator.cpu.native import VECTOR_BUDGET

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)
ES, CS, SS, DS, FS, GS, LDT, TR, GDT, IDT = range(10)
UNLIMITED = (1 << 64) - 1
MASK64 = (1 << 64) - 1

CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
IOPL, NT, RF, VM, AC, ID = 0x3000, 0x4000, 0x10000, 0x20000, 0x40000, 0x200000
_ARITHMETIC = CF | PF | AF | ZF | SF | OF
_DR6_DEFAULT = 0xFFFF0FF0
_CR4_TSD = 4
_CC_OP_EFLAGS = 1  # CC_SRC holds the flags themselves (target/i386/cpu.h)

_HF_CPL3, _HF_CS32, _HF_SS32, _HF_TS, _HF_CS64 = 3, 1 << 4, 1 << 5, 1 << 11, 1 << 15
_HF_CODE = _HF_CS64 | _HF_CS32 | _HF_SS32
_MAX_CODE_IMAGES = 64
FLAT_CODE64, FLAT_DATA = 0x00AFFB000000FFFF, 0x00CFF3000000FFFF
"""Descriptors of flat ring-3 segments: 64-bit code, and data."""

INVALID_OPCODE = 6


class Core:
    """See the module. `address` and `size` (bytes, whole frames) name the host memory that is the machine's RAM from 0."""

    def __init__(self, address: int, size: int, *, translation_buffer: int = 32 << 20) -> None:
        self._lib = load()
        self._memory, self._buffer = (address, size), translation_buffer
        self._control_owner = native.control_block(address, self._lib)
        self._control_address = ctypes.addressof(self._control_owner)
        self.control = memoryview(self._control_owner).cast("B").cast("Q")
        layout = find_layout()
        self._env_bytes = layout.context_bytes
        self._dr, self._error_code = layout.dr // 8, layout.error_code // 4
        self._code_images: dict[tuple[int, int, int, int], tuple[bytes, int]] = {}
        self.on_trap: Callable[[int], None] = self._unhandled
        self._failure: BaseException | None = None
        self._running = False
        self._state: bytes | None = None  # the processor's, while the core rests
        self._open()
        fpu.reset(self)
        self._enter_ring3()

    def _open(self) -> None:
        instance = self._instance = Instance(self._lib, self._memory, self._buffer, self._control_owner, self._interrupt, self._invalid)
        self._engine, self._cpu, self._env_address = instance.engine, instance.cpu, instance.env
        raw = memoryview((ctypes.c_uint8 * self._env_bytes).from_address(instance.env)).cast("B")
        self.env = raw.cast("Q")
        self.env32 = raw.cast("I")
        self.regs = self.env[0:16]
        self._cs_ss = raw[ENV_SEGMENTS + CS * SEGMENT_BYTES : ENV_SEGMENTS + (SS + 1) * SEGMENT_BYTES]
        self._old_exception = (ctypes.c_int32).from_address(instance.env + find_layout().old_exception)

    def _close(self) -> None:
        for view in (self.regs, self._cs_ss, self.env, self.env32):
            view.release()  # a use after this is a ValueError and not a wild write
        self._instance.close()
        self._engine = self._cpu = self._env_address = 0

    def close(self) -> None:
        """Give the engine back. The memory stays its owner's."""
        if self._memory[1]:
            self._memory = (0, 0)
            if self._state is None:
                self._close()
            self._code_images.clear()
            del self.on_trap  # it and the callbacks lead back here: our memory would wait for the garbage collector
            del self._instance

    @property
    def resting(self) -> bool:
        return self._state is not None

    def rest(self) -> None:
        """Give the instance of Unicorn back, and with it about a MiB and all translated code, keeping the processor's state. Until `rouse`
        nothing may be asked of the core but `control`, `stop` and `close`."""
        if self._state is None:
            self._state = self.save()
            self._close()

    def rouse(self) -> None:
        """Make the instance again, where there is none."""
        if self._state is not None:
            self._open()
            state, self._state = self._state, None
            self.load(state)

    # --- running -------------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until the limit; returns Unicorn's error number, 0 for a spent budget. Raises what a trap handler raised."""
        self._running = True
        error: int = self._lib.emu_start(self._engine, self.env[ENV_RIP], 0, 0, 0)
        self._running = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return error

    def stop(self) -> None:
        """Refuse the next block. Any thread may call this at any moment."""
        self.control[native.LIMIT] = 0

    def _interrupt(self, _engine: int, vector: int, _data: int) -> None:
        # Unicorn never resets it, and would turn the second #PF in a row into a double fault.
        self._old_exception.value = -1
        if vector == VECTOR_BUDGET:
            self._lib.emu_stop(self._engine)
            return
        try:
            self.on_trap(vector)
        except BaseException as failure:  # noqa: BLE001 - carried over the C frames, raised again by run()
            self._failure = failure
            self.control[native.LIMIT] = 0
        if self.control[native.COUNT] >= self.control[native.LIMIT]:
            # A guest that only faults enters no block, so the budget is looked at here too.
            self._lib.emu_stop(self._engine)

    def _invalid(self, engine: int, data: int) -> bool:
        self._interrupt(engine, INVALID_OPCODE, data)
        return True

    def _unhandled(self, vector: int) -> None:
        raise RuntimeError(f"trap {vector:#x} at {self.rip:#x} and nobody to handle it")

    # --- registers -----------------------------------------------------------------------------------------------------------

    @property
    def rip(self) -> int:
        return self.env[ENV_RIP]

    @rip.setter
    def rip(self, value: int) -> None:
        self.env[ENV_RIP] = value & MASK64

    @property
    def rflags(self) -> int:
        """The flags as PUSHF would show them. While it runs, Unicorn keeps the arithmetic ones and DF apart from EFLAGS."""
        if not self._running:
            return self.env[ENV_EFLAGS]
        return int(self._lib.read_eflags(self._env_address)) | (self.env[ENV_EFLAGS] & RF)

    @rflags.setter
    def rflags(self, value: int) -> None:
        if not self._running:
            self.env[ENV_EFLAGS] = value & (_ARITHMETIC | TF | IF | DF | NT | RF | AC | ID) | 2
            return
        self.env[ENV_CC_SRC] = value & _ARITHMETIC
        self.env32[ENV_CC_OP] = _CC_OP_EFLAGS
        self.env32[ENV_DF] = 0xFFFFFFFF if value & DF else 1
        self.env[ENV_EFLAGS] = value & (TF | IF | NT | RF | AC | ID) | 2

    @property
    def error_code(self) -> int:
        """Of the last exception that has one."""
        return self.env32[self._error_code]

    @property
    def software_interrupt(self) -> bool:
        """Whether the last exception came from INT n, INT3 or INTO: RIP is then the next instruction's."""
        return self.env32[self._error_code + 1] != 0

    @property
    def cr2(self) -> int:
        return self.env[ENV_CR + 2]

    @property
    def cr3(self) -> int:
        return self.env[ENV_CR + 3]

    @cr3.setter
    def cr3(self, value: int) -> None:
        """Machine address of the L4 table. Flushes the TLB."""
        self.env[ENV_CR + 3] = value
        self._lib.tlb_flush(self._cpu)

    def turn(self, cr3: int) -> None:
        """To the guest's other mode, whose L4 table lies at machine address `cr3`; each has a TLB of its own (see `tlb`)."""
        self._lib.turn(self._control_address, cr3)

    @contextmanager
    def walking(self, cr3: int) -> Iterator[None]:
        """Page walks by software (GuestMemory) follow `cr3` meanwhile; the core must not run."""
        kept, self.env[ENV_CR + 3] = self.env[ENV_CR + 3], cr3
        try:
            yield
        finally:
            self.env[ENV_CR + 3] = kept

    def debug_register(self, number: int) -> int:
        return self.env[self._dr + number]

    def take_debug_status(self) -> int:
        """DR6, which the processor only ever adds to; it begins anew."""
        status = self.debug_register(6)
        self.env[self._dr + 6] = _DR6_DEFAULT
        return status

    def set_breakpoints(self, addresses: list[int], dr7: int) -> None:
        """Load DR0–DR3 and DR7, and arm the execution breakpoints among them (data watchpoints never fire in Unicorn)."""
        self._lib.set_dr(self._env_address, 7, 0x400)
        for number, address in enumerate(addresses):
            self._lib.set_dr(self._env_address, number, address)
        self._lib.set_dr(self._env_address, 7, dr7)

    def disarm_breakpoints(self) -> None:
        self._lib.set_dr(self._env_address, 7, 0x400)

    def segment(self, number: int) -> tuple[int, int]:
        """(selector, base) of ES CS SS DS FS GS."""
        word = (ENV_SEGMENTS + number * SEGMENT_BYTES) // 8
        return self.env32[word * 2] & 0xFFFF, self.env[word + 1]

    def set_segment_base(self, number: int, base: int) -> None:
        self.env[(ENV_SEGMENTS + number * SEGMENT_BYTES) // 8 + 1] = base

    def load_code64(self, cs: int, ss: int) -> None:
        """CS and SS as flat 64-bit ring-3 segments under these selectors."""
        self.load_code(cs, FLAT_CODE64, ss, FLAT_DATA)

    def load_code(self, cs: int, code: int, ss: int, stack: int) -> None:
        """CS and SS from selectors and 8-byte descriptors, without any check. Every crossing between the guest's two modes does
        this, so what it comes to is kept: two neighbouring segments and three bits of hflags."""
        key = (cs, code, ss, stack)
        kept = self._code_images.get(key)
        if kept is None:
            if len(self._code_images) >= _MAX_CODE_IMAGES:
                self._code_images.clear()
            self.load_descriptor(CS, cs, code)
            self.load_descriptor(SS, ss, stack)
            kept = self._code_images[key] = (bytes(self._cs_ss), self.env32[ENV_HFLAGS] & _HF_CODE)
        self._cs_ss[:] = kept[0]
        self.env32[ENV_HFLAGS] = self.env32[ENV_HFLAGS] & ~_HF_CODE | kept[1]

    @property
    def code_image(self) -> bytes:
        """CS and SS as the processor holds them, for `crossing`."""
        return bytes(self._cs_ss)

    def load_descriptor(self, number: int, selector: int, descriptor: int) -> None:
        """Load a segment register from an 8-byte code or data descriptor, without any check (the caller made them)."""
        offset = ENV_SEGMENTS + number * SEGMENT_BYTES
        flags = descriptor >> 32 & 0xF0FF00
        limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF0000
        if flags & 0x800000:  # granularity: 4 KiB
            limit = limit << 12 | 0xFFF
        self.env32[offset // 4] = selector
        self.env[offset // 8 + 1] = descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000
        self.env32[offset // 4 + 4] = limit & 0xFFFFFFFF
        self.env32[offset // 4 + 5] = flags
        if number == CS:
            hidden = self.env32[ENV_HFLAGS] & ~(_HF_CS64 | _HF_CS32)
            if flags & 0x200000:
                hidden |= _HF_CS64 | _HF_CS32 | _HF_SS32
            elif flags & 0x400000:
                hidden |= _HF_CS32
            self.env32[ENV_HFLAGS] = hidden

    def clear_segment(self, number: int) -> None:
        """A null selector; FS and GS keep their bases, which the guest sets apart."""
        offset = ENV_SEGMENTS + number * SEGMENT_BYTES
        self.env32[offset // 4] = 0
        if number not in (FS, GS):
            self.env[offset // 8 + 1] = 0
        self.env32[offset // 4 + 4] = self.env32[offset // 4 + 5] = 0

    def set_table(self, number: int, base: int, limit: int) -> None:
        """GDT, LDT: where descriptors are read from (linear address) and the last valid byte."""
        offset = ENV_SEGMENTS + number * SEGMENT_BYTES
        self.env[offset // 8 + 1] = base
        self.env32[offset // 4 + 4] = limit
        if number == LDT:
            self.env32[offset // 4] = 0xE040 if limit else 0
            self.env32[offset // 4 + 5] = 0x8200 if limit else 0

    @property
    def code_size(self) -> int:
        """Bits of the present code segment."""
        hidden = self.env32[ENV_HFLAGS]
        return 64 if hidden & _HF_CS64 else 32 if hidden & _HF_CS32 else 16

    @property
    def task_switched(self) -> bool:
        return bool(self.env[ENV_CR] & 8)

    @task_switched.setter
    def task_switched(self, value: bool) -> None:
        """CR0.TS: the next FPU instruction raises #NM."""
        if value:
            self.env[ENV_CR] |= 8
            self.env32[ENV_HFLAGS] |= _HF_TS
        else:
            self.env[ENV_CR] &= ~8 & MASK64
            self.env32[ENV_HFLAGS] &= ~_HF_TS & 0xFFFFFFFF

    def forbid_tsc(self, forbidden: bool) -> None:
        """CR4.TSD: RDTSC raises #GP."""
        self.env[ENV_CR + 4] = self.env[ENV_CR + 4] & ~_CR4_TSD | (_CR4_TSD if forbidden else 0)

    def read_register(self, number: int, size: int) -> bytes:
        """One of Unicorn's registers by its number (uc_x86_reg), for what lies at no fixed place in `env`."""
        cell = (ctypes.c_uint8 * 16)()
        self._lib.check(self._lib.reg_read(self._engine, number, ctypes.addressof(cell)), f"read of register {number}")
        return bytes(cell[:size])

    def write_register(self, number: int, value: bytes) -> None:
        cell = (ctypes.c_uint8 * 16)(*value)
        self._lib.check(self._lib.reg_write(self._engine, number, ctypes.addressof(cell)), f"write of register {number}")

    # --- translations (none while the core rests) ---

    def flush_tlb(self) -> None:
        """Forget all translations of addresses, the other mode's too."""
        if self._engine:
            self._lib.tlb_flush(self._cpu)

    def flush_page(self, va: int) -> None:
        if self._engine:
            self._lib.tlb_flush_page(self._cpu, va)

    def flush_code(self) -> None:
        """Forget all translated code (0.1–1.2 ms, and its making again)."""
        if self._engine:
            self._instance.control(CTL_FLUSH_TB)

    def forget_frame(self, mfn: int) -> None:
        """Forget the code translated from a machine frame, whatever addresses it was reached by."""
        if self._engine:
            self._lib.invalidate_phys_range(self._engine, mfn << 12, (mfn + 1) << 12)

    def forget_frames(self, addresses: ctypes.Array[ctypes.c_uint64], count: int) -> None:
        """The same for the first `count` of many machine addresses, at least one."""
        if self._engine:
            self._lib.invalidate_pages(self._engine, ctypes.addressof(addresses), count, self._lib.invalidate_phys_range_address)

    # --- state ---------------------------------------------------------------------------------------------------------------

    def save(self) -> bytes:
        """The processor's whole state (CPUX86State up to its resettable end), for `load` and for hashes. Host pointers read as zero:
        those of armed breakpoints (behind the debug registers) and `retaddr`, the last word."""
        state = bytearray(ctypes.string_at(self._env_address, self._env_bytes))
        pointers = (self._dr + 8) * 8
        state[pointers : pointers + 32] = bytes(32)
        state[-8:] = bytes(8)
        return bytes(state)

    def load(self, state: bytes) -> None:
        """Put back what `save` returned, in this or another core of the same build. Flushes the TLB."""
        if len(state) != self._env_bytes:
            raise ValueError(f"state of {len(state)} bytes, {self._env_bytes} expected")
        self.disarm_breakpoints()  # while their pointers are still the ones that Unicorn made
        ctypes.memmove(self._env_address, state, len(state))
        armed = self.env[self._dr + 7]
        if armed & 0xFF:
            self.env[self._dr + 7] = 0x400
            self._lib.set_dr(self._env_address, 7, armed)
        self._lib.tlb_flush(self._cpu)

    def _enter_ring3(self) -> None:
        """Flat 64-bit ring 3: segment caches, the CPL in hflags, interrupts on, as an IRETQ from ring 0 would leave them."""
        self.load_code64(0xE033, 0xE02B)
        for segment in (ES, DS, FS, GS):
            self.clear_segment(segment)
        self.env32[ENV_HFLAGS] |= _HF_CPL3
        self.rflags = IF
