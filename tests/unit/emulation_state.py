"""A vCPU over a bytearray, for the emulation's tests."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import unicorn

from emulator.cpu import exitcheck
from emulator.cpu.layout import Prober
from emulator.cpu.libunicorn import load
from emulator.hypervisor.emulation import GuestPageFault
from emulator.hypervisor.emulation.cpuid import cpuid

CODE = 0x10000
TABLE = 0x14000  # the "L1 table": one page, mapped read-only
DATA = 0x18000
SIZE = 0x1C000


def bare_core() -> Any:
    """Unicorn in flat 64-bit mode; untyped as its binding is."""
    binding: Any = unicorn
    return binding.Uc(binding.UC_ARCH_X86, binding.UC_MODE_64)


@contextmanager
def exit_checks() -> Iterator[None]:
    """A bare core counts instructions by the check that ours leave out of all code of the process: it is back while this lasts."""
    prober, lib = Prober(), load()
    flags = exitcheck._find_row(prober, lib.path.resolve(), lib.address_of("helper_check_exit_request_x86_64")) + exitcheck._FLAGS_AT
    prober.close()
    field, page, mprotect = ctypes.c_uint32.from_address(flags), ctypes.c_void_p(flags & -mmap.PAGESIZE), ctypes.CDLL(None).mprotect
    before = field.value
    mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        field.value = 0
        yield
    finally:
        field.value = before
        mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ)


class FakeState:
    """Satisfies EmulationState; `unmapped` are pages that fault, `table` is the page that cannot be written."""

    def __init__(self, code: bytes = b"", *, in_kernel: bool = True, iopl: int = 0x1000) -> None:
        self.memory = bytearray(SIZE)
        self.memory[CODE : CODE + len(code)] = code
        self.regs: list[int] = [0] * 16
        self.rip = CODE
        self.rflags = 0x202
        self.in_kernel = in_kernel
        self.code_size = 64
        self.iopl = iopl
        self.architectural_iopl = False
        self.ports: set[int] = set()
        self.unmapped: set[int] = set()
        self.bases: dict[str, int] = {}
        self.cr = {0: 0x8005003B, 2: 0x1234, 3: 0x5000, 4: 0x660}
        self.dr: dict[int, int] = {0: 0, 1: 0x11, 2: 0x22, 3: 0x33, 6: 0xFFFF0FF0, 7: 0x400}
        self.msrs: dict[int, int] = {}
        self.refused: set[int] = set()  # CR, DR and MSR numbers whose write is refused

    def fetch(self, va: int, count: int) -> bytes:
        taken = b""
        while len(taken) < count and (va + len(taken)) & ~0xFFF not in self.unmapped and va + len(taken) < SIZE:
            here = va + len(taken)
            taken += bytes(self.memory[here : min(va + count, (here | 0xFFF) + 1)])
        return taken

    def _check(self, va: int, count: int, error_code: int) -> None:
        for address in range(va, va + count):
            if address >= SIZE or address & ~0xFFF in self.unmapped:
                raise GuestPageFault(address, error_code)

    def read(self, va: int, count: int) -> bytes:
        self._check(va, count, 4)
        return bytes(self.memory[va : va + count])

    def write(self, va: int, data: bytes) -> None:
        self._check(va, len(data), 6)
        if va & ~0xFFF == TABLE:
            raise GuestPageFault(va, 7)
        self.memory[va : va + len(data)] = data

    def write_entry(self, entry: int, old: int, new: int, _compare: bool) -> bool:
        """The hypervisor's side of store(): accepts everything, checks what it is told."""
        assert entry & ~0xFF8 == TABLE
        assert int.from_bytes(self.memory[entry : entry + 8], "little") == old
        self.memory[entry : entry + 8] = new.to_bytes(8, "little")
        return True

    def segment_base(self, name: str) -> int:
        return self.bases.get(name, 0)

    def io_permitted(self, port: int, size: int) -> bool:
        return all(number in self.ports for number in range(port, port + size))

    def read_cr(self, number: int) -> int:
        return self.cr[number]

    def write_cr(self, number: int, value: int) -> bool:
        if number in self.refused:
            return False
        self.cr[number] = value
        return True

    def read_dr(self, number: int) -> int | None:
        return self.dr.get(number)

    def write_dr(self, number: int, value: int) -> bool:
        if number in self.refused:
            return False
        self.dr[number] = value
        return True

    def read_msr(self, index: int) -> int | None:
        return self.msrs.get(index)

    def write_msr(self, index: int, value: int) -> bool:
        if index not in self.msrs or index in self.refused:
            return False
        self.msrs[index] = value
        return True

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return cpuid(leaf, subleaf)
