"""Bare Unicorn, the yardstick of a guest's speed: paging on, data pages NX, `no_exit_request` set, no hooks.

Physical memory is flat from 0. The first 2 MiB of virtual memory are a 4 KiB-paged identity map, code at CODE, data at DATA.
"""

from __future__ import annotations

import ctypes
import struct
import time

import unicorn
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from tests.benchmarks.kit import ALIGN, LOOPS, loop_bytes

CODE, DATA, STACK, TABLES = 0x10000, 0x40000, 0x60000, 0x100000
END = CODE + 0xF00
NX, PRESENT, WRITABLE, USER = 1 << 63, 1, 2, 4
EFER = 0xC0000080


def forbid_exit_requests(uc: unicorn.Uc) -> None:
    """Sets uc_struct's private `no_exit_request`, found by the pair of words before it; before anything is translated."""
    handle = int(ctypes.cast(uc._uch, ctypes.c_void_p).value or 0)
    library = ctypes.CDLL(uclib._name)
    library.uc_context_size.restype = ctypes.c_size_t
    size = library.uc_context_size(ctypes.c_void_p(handle))
    head = ctypes.string_at(handle, 4096)
    at = head.index(struct.pack("<II", 1, size - 40))
    spot = (at + 8 + 7) // 8 * 8 + 8
    if head[spot] != 0 or head[spot + 1 + 2] != 1:
        raise RuntimeError("this build of Unicorn keeps no_exit_request elsewhere")
    ctypes.memset(handle + spot + 2, 1, 1)


def machine() -> unicorn.Uc:
    """A core in long mode with the loops at CODE."""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    forbid_exit_requests(uc)
    uc.mem_map(0, 4 << 20)
    l4, l3, l2, l1 = (TABLES + 4096 * number for number in range(4))
    for table, below in ((l4, l3), (l3, l2), (l2, l1)):
        uc.mem_write(table, struct.pack("<Q", below | PRESENT | WRITABLE | USER))
    entries = []
    for frame in range(512):
        address = frame << 12
        code = CODE <= address < DATA
        entries.append(address | PRESENT | USER | (0 if code else WRITABLE | NX))
    uc.mem_write(l1, struct.pack("<512Q", *entries))
    uc.mem_write(CODE, loop_bytes())
    uc.reg_write(x86.UC_X86_REG_CR4, uc.reg_read(x86.UC_X86_REG_CR4) | 1 << 5)
    uc.reg_write(x86.UC_X86_REG_CR3, l4)
    uc.msr_write(EFER, uc.msr_read(EFER) | 1 << 8 | 1 << 11)
    uc.reg_write(x86.UC_X86_REG_CR0, uc.reg_read(x86.UC_X86_REG_CR0) | 1 << 31 | 1)
    return uc


def seconds(loop: str, rounds: int) -> float:
    """CPU seconds that `rounds` rounds of a loop take, translation left out."""
    uc = machine()
    start = CODE + ALIGN * list(LOOPS).index(loop)
    took = 0.0
    for turns in (1000, rounds):
        uc.mem_write(STACK, struct.pack("<Q", END))
        uc.reg_write(x86.UC_X86_REG_RSP, STACK)
        uc.reg_write(x86.UC_X86_REG_RDI, turns)
        uc.reg_write(x86.UC_X86_REG_RSI, DATA)
        began = time.process_time()
        uc.emu_start(start, END)
        took = time.process_time() - began
        if uc.reg_read(x86.UC_X86_REG_RDI) != 0:
            raise RuntimeError(f"{loop} did not run to its end on bare Unicorn")
    return took
