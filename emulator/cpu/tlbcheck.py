"""The self-test of `tlb`: Unicorn's TLB lies where it must, and two address spaces that take turns neither forget nor mix.

A scratch instance runs one instruction at the same address in two address spaces, in which code and data differ. First what that left in the
TLB is read and compared; only then is anything exchanged. The page tables are emptied in between: what still runs has come out of
the kept translations, and nothing runs any more after a flush.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from functools import cache

from emulator.cpu import native
from emulator.cpu.layout import ENV_CR, ENV_HFLAGS, Prober, find_layout, refuse
from emulator.cpu.libunicorn import ARCH_X86, MODE_64, PROT_ALL, REG_CR0, REG_CR4, LibUnicorn, load
from emulator.cpu.tlb import DESCRIPTION, T_DIRTY, T_FAST, T_KEPT

_FRAMES, _ENTRY_BYTES, _ENTRIES = 16, 64, 256
_USED = 1  # MMU_USER_IDX
_CODE, _DATA = 9, 11  # pages of the two address spaces; the second has the frames behind these
_TABLES = (1, 5)  # frames of the L4 tables, those of the lower levels behind them
_READS = (bytes.fromhex("488b042500b00000"), bytes.fromhex("488b1c2500b00000"))  # mov rax, [0xb000]; mov rbx, [0xb000]
_REGISTERS = (0, 3)
_EFER, _CR0, _CR4 = (0xC0000080, 0xD01), 0x80050033, 0x20


class _Scratch:
    def __init__(self, lib: LibUnicorn) -> None:
        self._lib = lib
        self._map = mmap.mmap(-1, _FRAMES << 12)
        self._owner = (ctypes.c_uint64 * (_FRAMES << 9)).from_buffer(self._map)
        self.words = memoryview(self._owner).cast("B").cast("Q")
        engine = ctypes.c_void_p()
        lib.check(lib.open(ARCH_X86, MODE_64, ctypes.byref(engine)), "uc_open")
        assert engine.value is not None
        self._engine = engine.value
        lib.check(lib.mem_map_ptr(self._engine, 0, _FRAMES << 12, PROT_ALL, ctypes.addressof(self._owner)), "uc_mem_map_ptr")
        lib.set_register(self._engine, REG_CR4, _CR4)
        lib.set_msr(self._engine, *_EFER)
        lib.set_register(self._engine, REG_CR0, _CR0)
        layout = find_layout()
        self.cpu: int = ctypes.c_uint64.from_address(self._engine + layout.uc_cpu).value
        self.env: int = ctypes.c_uint64.from_address(self.cpu + layout.cpu_env).value
        for space, table in enumerate(_TABLES):
            for frame in range(table, table + 3):
                self.words[frame << 9] = frame + 1 << 12 | 7
            for page in (_CODE, _DATA):
                self.words[table + 3 << 9 | page] = page + space << 12 | 7
            self.words[_CODE + space << 9] = int.from_bytes(_READS[space], "little")
            self.words[_DATA + space << 9] = 0x5EED0000 + space
        ctypes.c_uint32.from_address(self.env + ENV_HFLAGS * 4).value |= 3  # ring 3
        ctypes.c_uint64.from_address(self.env + (ENV_CR + 3) * 8).value = _TABLES[0] << 12
        lib.tlb_flush(self.cpu)
        self._control = native.control_block(ctypes.addressof(self._owner), lib)
        self._control[native.ENV], self._control[native.CPU] = self.env, self.cpu

    def reads(self, space: int) -> bool:
        """Whether the instruction runs, and is this address space's."""
        registers = (ctypes.c_uint64 * 16).from_address(self.env)
        registers[_REGISTERS[0]] = registers[_REGISTERS[1]] = 0
        error = self._lib.emu_start(self._engine, _CODE << 12, (_CODE << 12) + len(_READS[0]), 0, 0)
        return not error and [registers[number] for number in _REGISTERS] == [0x5EED0000 + space if this == space else 0 for this in range(2)]

    def turn(self, space: int) -> None:
        self._lib.turn(ctypes.addressof(self._control), _TABLES[space] << 12)

    def flush(self) -> None:
        self._lib.tlb_flush(self.cpu)

    def unmap(self, space: int) -> None:
        for page in (_CODE, _DATA):
            self.words[_TABLES[space] + 3 << 9 | page] = 0

    def close(self) -> None:
        self._lib.close(self._engine)
        self.words.release()
        del self._owner
        self._map.close()


def _lies_right(prober: Prober, env: int) -> bool:
    """Whether the TLB is what the one instruction must have left: two entries under the index in use, nothing elsewhere."""
    image = prober.read(env + T_DIRTY, -T_DIRTY)
    if len(image) != -T_DIRTY or struct.unpack_from("<H", image)[0] != 1 << _USED:
        return False
    for index in range(3):
        at = T_KEPT - T_DIRTY + index * DESCRIPTION
        mask, table = struct.unpack_from("<QQ", image, T_FAST - T_DIRTY + index * 16)
        used = struct.unpack_from("<Q", image, at + 32)[0]
        entries = prober.read(table, _ENTRIES * _ENTRY_BYTES)
        if mask != (_ENTRIES - 1) * _ENTRY_BYTES or image[at : at + 16] != b"\xff" * 16 or used != (2 if index == _USED else 0):
            return False
        if image[at + 48 : at + 48 + 8 * _ENTRY_BYTES] != b"\xff" * 8 * _ENTRY_BYTES:
            return False
        for number in range(_ENTRIES):
            entry = entries[number * _ENTRY_BYTES : (number + 1) * _ENTRY_BYTES]
            if index == _USED and number in (_CODE, _DATA):
                read, _write, _code, physical = struct.unpack_from("<4Q", entry)
                if read != number << 12 or physical != number << 12:
                    return False
            elif entry != b"\xff" * _ENTRY_BYTES:
                return False
    return True


@cache
def check() -> None:
    """Raises UserError when this build's TLB is not the measured one."""
    scratch, prober = _Scratch(load()), Prober()
    try:
        if not scratch.reads(0) or not _lies_right(prober, scratch.env):
            raise refuse("the TLB is not where it should be")
        scratch.turn(1)
        right = scratch.reads(1)
        for space in (0, 1):
            scratch.turn(space)
            scratch.unmap(space)
            right = right and scratch.reads(space)
        scratch.flush()
        for space in (1, 0):
            right = right and not scratch.reads(space)
            scratch.turn(0)
        if not right:
            raise refuse("two TLBs that take turns mix what they hold")
    finally:
        prober.close()
        scratch.close()
