"""Stores to code through a second mapping: found by the physical page, as a processor finds them.

Unicorn looks for translated code at a store until it has found none to drop, and marks the mapping's TLB entry as free of code then. QEMU
takes that back for all entries of a page when code is translated from it, and never marks one while there is code. In Unicorn both are
gone: the function that takes it back is empty, and an entry is marked although the page has other code than what the store hit. So the second
store to a page through a mapping with NX would leave old code behind for ever: a page that is filled anew, say.

Both are put back here, in the two functions of QEMU's that decide it:

    tlb_set_dirty      before an entry is marked, all code of its page is forgotten; without knowing the page it is not marked
    tlb_protect_code   at the first code from a page, no entry is marked any more

So no entry is marked while its page has code. Code of the running block itself is forgotten when the block ends: a processor promises no more
to who writes code by another address than it is executed by (SDM volume 3, 12.6, self-modifying code).

The library calls its own exported functions through its table of imports (the ELF dynamic section's DT_JMPREL), so that two words of that table
lead here, in every instance of this process. They are believed only when they are writable, named so, and lead where they must.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from functools import cache
from typing import Final

import numpy as np

from emulator.cpu.layout import Prober, find_layout, refuse
from emulator.cpu.libunicorn import LibUnicorn, load
from emulator.cpu.mappings import rights_at
from emulator.errors import UserError

# void tlb_set_dirty(cpu, vaddr), void tlb_protect_code(uc, ram_addr). MMU_DATA_STORE and MMU_USER_IDX are 1: a guest runs in ring 3.
CODE = bytes.fromhex(
    "488b0591000000"  # set_dirty: mov rax, qword ptr [rip + cpu_env]
    "488b0407"  # mov rax, qword ptr [rdi + rax]    CPUX86State
    "8b88b0000000"  # mov ecx, dword ptr [rax + 176]    hflags, the CPL in its low bits
    "f7d1"  # not ecx
    "f6c103"  # test cl, 3
    "7555"  # jne as_before
    "53"  # push rbx
    "55"  # push rbp
    "4883ec18"  # sub rsp, 0x18
    "4889fb"  # mov rbx, rdi
    "4889f5"  # mov rbp, rsi
    "4889c7"  # mov rdi, rax
    "ba01000000"  # mov edx, 1
    "89d1"  # mov ecx, edx
    "4c8d442408"  # lea r8, [rsp + 8]
    "ff1577000000"  # call qword ptr [rip + vaddr_to_paddr]
    "84c0"  # test al, al
    "7436"  # je keep
    "488b055c000000"  # mov rax, qword ptr [rip + cpu_uc]
    "488b3c03"  # mov rdi, qword ptr [rbx + rax]
    "488b742408"  # mov rsi, qword ptr [rsp + 8]
    "4881e600f0ffff"  # and rsi, 0xfffffffffffff000
    "488d9600100000"  # lea rdx, [rsi + 0x1000]
    "ff1557000000"  # call qword ptr [rip + invalidate_range]
    "4889df"  # mov rdi, rbx
    "4889ee"  # mov rsi, rbp
    "4883c418"  # add rsp, 0x18
    "5d"  # pop rbp
    "5b"  # pop rbx
    "ff254d000000"  # as_before: jmp qword ptr [rip + original]
    "4883c418"  # keep: add rsp, 0x18
    "5d"  # pop rbp
    "5b"  # pop rbx
    "c3"  # ret
    "488b0527000000"  # protect: mov rax, qword ptr [rip + uc_cpu]
    "488b3c07"  # mov rdi, qword ptr [rdi + rax]
    "31f6"  # xor esi, esi    all of the host's addresses
    "4883caff"  # or rdx, 0xffffffffffffffff
    "ff2537000000"  # jmp qword ptr [rip + reset_dirty]
    "0f1f8000000000"  # nop dword ptr [rax]
)
PROTECT: Final = 0x7A
WORDS: Final = ("cpu_env", "cpu_uc", "uc_cpu", "vaddr_to_paddr", "invalidate_range", "original", "reset_dirty")
"""The 64-bit words behind the code: offsets of `layout`, and addresses in the library."""

_JMPREL, _PLTRELSZ, _STRTAB, _SYMTAB = 23, 2, 5, 6  # tags of the dynamic section (elf.h)
_ENTRY = 24  # bytes of Elf64_Rela {offset, info, addend}, and of Elf64_Sym {name: u32, info, size: … value, size}


def import_slot(lib: LibUnicorn, prober: Prober, symbol: str) -> int:
    """Address of the word by which the library calls its own exported `symbol`. Raises UserError when there is none."""
    base, _name, dynamic = struct.unpack("<3Q", prober.read(lib.handle, 24))  # struct link_map (link.h)
    table = np.frombuffer(prober.read(dynamic, 4096), dtype=np.uint64).reshape(-1, 2)
    found = {int(tag): int(value) for tag, value in table[::-1] if tag}  # the first of each; what follows the end may be anything
    if not found.keys() >= {_JMPREL, _PLTRELSZ, _STRTAB, _SYMTAB}:
        raise refuse("the library's table of imports was not found")
    place = {tag: found[tag] + (base if found[tag] < base else 0) for tag in (_JMPREL, _STRTAB, _SYMTAB)}
    imports = np.frombuffer(prober.read(place[_JMPREL], found[_PLTRELSZ] // _ENTRY * _ENTRY), dtype=np.uint64).reshape(-1, 3)
    numbers = (imports[:, 1] >> np.uint64(32)).astype(np.int64)
    symbols = np.frombuffer(prober.read(place[_SYMTAB], (int(numbers.max(initial=0)) + 1) * _ENTRY), dtype=np.uint64).reshape(-1, 3)
    rows = np.flatnonzero(symbols[numbers, 1] == lib.address_of(symbol) - base).tolist()
    name = symbol.encode() + b"\0"
    named = [row for row in rows if prober.read(place[_STRTAB] + int(symbols[numbers[row], 0]) % (1 << 32), len(name)) == name]
    if len(named) != 1:
        raise refuse(f"{symbol} is imported {len(named)} times")
    slot: int = base + int(imports[named[0], 0])
    if not rights_at(slot).startswith("rw"):
        raise refuse(f"the library's import of {symbol} cannot be changed")
    return slot


@cache
def look_by_page() -> tuple[int, mmap.mmap]:
    """From now on a store to code is found whatever mapping it goes by. Returns where the machine code lies, and its page. Raises UserError
    when this build is not the measured one."""
    lib, layout = load(), find_layout()
    prober = Prober()
    try:
        slots = import_slot(lib, prober, "tlb_set_dirty_x86_64"), import_slot(lib, prober, "tlb_protect_code_x86_64")
    finally:
        prober.close()
    values = [layout.cpu_env, layout.cpu_uc, layout.uc_cpu]
    called = ("tlb_vaddr_to_paddr", "tb_invalidate_phys_page_range", "tlb_set_dirty", "tlb_reset_dirty")
    values += [lib.address_of(f"{name}_x86_64") for name in called]
    page = mmap.mmap(-1, mmap.PAGESIZE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    page[: len(CODE)] = CODE
    page[len(CODE) : len(CODE) + 8 * len(WORDS)] = struct.pack(f"<{len(WORDS)}Q", *values)
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(at), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC):
        raise UserError("no executable memory", where="processor", why="the system forbids mprotect(PROT_EXEC)",
                        fix="allow it for this process (SELinux: execmem)")  # fmt: skip
    for slot, function in zip(slots, (at, at + PROTECT), strict=True):
        ctypes.c_uint64.from_address(slot).value = function
    return at, page
