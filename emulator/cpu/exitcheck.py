"""Unicorn's exit check, left out of the translated code.

Unicorn begins every translation block with a call of `check_exit_request`, which looks whether somebody asked it to stop. It takes a tenth
of a boot, and here nobody asks: the budget's callback runs at the same place and leaves the block by an exception of its own
(`native.VECTOR_BUDGET`), and a trap handler's stop is seen by the loop around the blocks.

Unicorn's code generator keeps a table of the functions that translated code may call (tcg/tcg.c, TCGHelperInfo):

    func: void *     name: char *     flags: u32     sizemask: u32

and drops a call to one that is flagged free of side effects, when nothing needs its result. This one has no result, so setting the flag makes
it vanish from all code translated from then on, in every instance of this process. Its row is found by its address and believed only when
the name and both numbers are those of the measured build.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from functools import cache
from pathlib import Path

from emulator.cpu.layout import Prober, refuse
from emulator.cpu.libunicorn import load
from emulator.cpu.mappings import mappings
from emulator.errors import UserError

_NAME = b"check_exit_request_x86_64\0"
_FLAGS_AT, _SIZEMASK = 16, 4  # sizemask: nothing returned, a pointer, 32 bits
_NO_SIDE_EFFECTS = 4  # TCG_CALL_NO_SIDE_EFFECTS (tcg/tcg.h)


def _find_row(prober: Prober, library: Path, function: int) -> int:
    """Address of the function's row. The table is data that the loader made read-only."""
    wanted = struct.pack("<Q", function)
    for low, high, rights, path in mappings():
        if path != str(library) or not rights.startswith("r") or "x" in rights:
            continue
        image = prober.read(low, high - low)
        at = image.find(wanted)
        while at >= 0:
            name, flags, sizemask = struct.unpack_from("<QII", image, at + 8) if at + 24 <= len(image) else (0, 0, 0)
            if prober.read(name, len(_NAME)) == _NAME and flags in (0, _NO_SIDE_EFFECTS) and sizemask == _SIZEMASK:
                return low + at
            at = image.find(wanted, at + 1)
    raise refuse("the exit check was not found among the code generator's functions")


@cache
def leave_out() -> None:
    """Code translated from now on has no exit check. Raises UserError when this build is not the measured one."""
    lib = load()
    prober = Prober()
    try:
        row = _find_row(prober, lib.path.resolve(), lib.address_of("helper_check_exit_request_x86_64"))
    finally:
        prober.close()
    libc = ctypes.CDLL(None, use_errno=True)
    flags = row + _FLAGS_AT
    page, size = ctypes.c_void_p(flags & -mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE)
    if libc.mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE):
        raise UserError("the processor cannot be set up", where="processor", why="the system forbids mprotect(PROT_WRITE)",
                        fix="allow it for this process")  # fmt: skip
    ctypes.c_uint32.from_address(flags).value = _NO_SIDE_EFFECTS
    libc.mprotect(page, size, mmap.PROT_READ)
