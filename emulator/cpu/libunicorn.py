"""libunicorn by raw ctypes: just the calls that the core makes, with their exact C types.

Unicorn's own Python binding costs 1–4 µs a call, which a hypercall path cannot pay, and it hides the engine's structure,
which the core needs (see `layout`). The shared library is the one that the pinned `unicorn` wheel installs.

Two handles to one library: calls through `slow` release the GIL (only `uc_emu_start` runs long enough to be worth it), calls
through `quick` keep it, since they end sooner than a hand-over of the GIL would.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emulator.cpu.native import native_code
from emulator.errors import UserError

SUPPORTED = "2.1.4"
"""The only version whose private structure this project has measured."""

# unicorn.h and x86.h
ARCH_X86, MODE_64, PROT_ALL = 4, 8, 7
HOOK_INTR, HOOK_INSN, HOOK_BLOCK, HOOK_INSN_INVALID = 1, 2, 8, 1 << 14
INS_CPUID, INS_IN, INS_OUT, INS_RDTSC, INS_RDTSCP, INS_SYSCALL, INS_SYSENTER = 113, 218, 500, 608, 609, 699, 700
REG_RIP, REG_CR0, REG_CR3, REG_CR4, REG_MSR = 41, 50, 53, 54, 248
CPU_MODEL_WESTMERE = 16
ERR_OK = 0


def _ctl_write(kind: int, arguments: int) -> int:
    """The control word of `uc_ctl` for a write of `arguments` values (UC_CTL_WRITE in unicorn.h)."""
    return kind | (arguments << 26) | (1 << 30)


CTL_USE_EXITS = _ctl_write(4, 1)
CTL_CPU_MODEL = _ctl_write(7, 1)
CTL_FLUSH_TB = _ctl_write(10, 0)
CTL_TCG_BUFFER_SIZE = _ctl_write(13, 1)

INTR_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
INVALID_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)


class MsrValue(ctypes.Structure):
    """uc_x86_msr: an MSR's number and value, for `uc_reg_write(REG_MSR)`."""

    _fields_ = (("rid", ctypes.c_uint32), ("value", ctypes.c_uint64))


class LibUnicorn:
    """The loaded library. Errors of calls that cannot fail but by our own bug raise RuntimeError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        slow = ctypes.CDLL(str(path))
        quick = ctypes.PyDLL(str(path))
        p, u32, u64, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
        self.emu_start = slow.uc_emu_start
        self.emu_start.argtypes = (p, u64, u64, u64, size)
        self.emu_stop = quick.uc_emu_stop
        self.emu_stop.argtypes = (p,)
        self.open = quick.uc_open
        self.open.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(p))
        self.close = quick.uc_close
        self.close.argtypes = (p,)
        self.mem_map_ptr = quick.uc_mem_map_ptr
        self.mem_map_ptr.argtypes = (p, u64, size, u32, p)
        self.reg_write = quick.uc_reg_write
        self.reg_write.argtypes = (p, ctypes.c_int, p)
        self.reg_read = quick.uc_reg_read
        self.reg_read.argtypes = (p, ctypes.c_int, p)
        self.ctl = quick.uc_ctl  # variadic: every argument is passed as an explicit ctypes value
        self.hook_add = quick.uc_hook_add  # variadic too
        self.context_size = quick.uc_context_size
        self.context_size.argtypes, self.context_size.restype = (p,), size
        self.context_alloc = quick.uc_context_alloc
        self.context_alloc.argtypes = (p, ctypes.POINTER(p))
        self.context_save = quick.uc_context_save
        self.context_save.argtypes = (p, p)
        self.context_restore = quick.uc_context_restore
        self.context_restore.argtypes = (p, p)
        self.context_free = quick.uc_context_free
        self.context_free.argtypes = (p,)
        # Unicorn exports QEMU's internals with the target's name at the end.
        self.tlb_flush = quick.tlb_flush_x86_64
        self.tlb_flush.argtypes, self.tlb_flush.restype = (p,), None
        self.tlb_flush_page = quick.tlb_flush_page_x86_64
        self.tlb_flush_page.argtypes, self.tlb_flush_page.restype = (p, u64), None
        self.invalidate_phys_range = quick.tb_invalidate_phys_range_x86_64
        self.invalidate_phys_range.argtypes, self.invalidate_phys_range.restype = (p, u64, u64), None
        self.read_eflags = quick.helper_read_eflags_x86_64
        self.read_eflags.argtypes, self.read_eflags.restype = (p,), u64
        self.set_dr = quick.helper_set_dr_x86_64
        self.set_dr.argtypes, self.set_dr.restype = (p, ctypes.c_int, u64), None
        self.invalidate_pages = ctypes.PYFUNCTYPE(None, p, p, u64, p)(native_code().address["forget"])
        self.turn = ctypes.PYFUNCTYPE(None, p, u64)(native_code().address["turn"])
        self.invalidate_phys_range_address = self.address_of("tb_invalidate_phys_range_x86_64")
        self.raise_exception_address = self.address_of("raise_exception_x86_64")
        self.read_eflags_address = self.address_of("helper_read_eflags_x86_64")
        self.flush_indices_address = self.address_of("tlb_flush_by_mmuidx_x86_64")
        self.handle: int = quick._handle  # the loader's struct link_map
        self._quick = quick

    def address_of(self, symbol: str) -> int:
        """Where an exported function lies, for machine code to jump to."""
        pointer = ctypes.cast(getattr(ctypes.PyDLL(str(self.path)), symbol), ctypes.c_void_p)
        assert pointer.value is not None
        return pointer.value

    def add_hook(self, engine: int, kind: int, function: int, data: int, instruction: int | None = None) -> None:
        """uc_hook_add over all addresses (begin > end means everywhere)."""
        handle = ctypes.c_size_t()
        arguments = [ctypes.c_void_p(engine), ctypes.byref(handle), ctypes.c_int(kind), ctypes.c_void_p(function),
                     ctypes.c_void_p(data), ctypes.c_uint64(1), ctypes.c_uint64(0)]  # fmt: skip
        if instruction is not None:
            arguments.append(ctypes.c_int(instruction))
        self.check(self.hook_add(*arguments), f"uc_hook_add({kind}, {instruction})")

    def set_msr(self, engine: int, number: int, value: int) -> None:
        msr = MsrValue(number, value)
        self.check(self.reg_write(engine, REG_MSR, ctypes.addressof(msr)), f"write of MSR {number:#x}")

    def set_register(self, engine: int, register: int, value: int) -> None:
        cell = ctypes.c_uint64(value)
        self.check(self.reg_write(engine, register, ctypes.addressof(cell)), f"write of register {register}")

    @staticmethod
    def check(error: int, what: str) -> None:
        if error != ERR_OK:
            raise RuntimeError(f"Unicorn refused {what}: error {error}")


@cache
def load() -> LibUnicorn:
    """The library of the installed `unicorn` package.

    Raises UserError when it is missing or of a version that was not measured."""
    fix = f"install unicorn=={SUPPORTED}"
    try:
        found = version("unicorn")
    except PackageNotFoundError:
        raise UserError("the package unicorn is not installed", where="processor", fix=fix) from None
    if found != SUPPORTED:
        raise UserError(f"unicorn {found} is not supported", where="processor", why=f"only {SUPPORTED} was measured", fix=fix)
    spec = importlib.util.find_spec("unicorn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for name in ("libunicorn.so.2", "libunicorn.so"):
            path = Path(folder) / "lib" / name
            if path.exists():
                return LibUnicorn(path)
    raise UserError("libunicorn.so.2 is not in the package unicorn", where="processor", fix=f"re{fix}")
