"""Where Unicorn keeps the processor's state: offsets found at start-up, checked, never assumed.

The core reads and writes CPUX86State in place (a register by memoryview costs 0.07 µs, by the API 0.9). The struct's beginning
follows from QEMU's target/i386/cpu.h; where it lies, and the fields behind the FPU state, are searched for in a scratch instance with known
values planted. A search that fails, or a check that disagrees, refuses to run: silent corruption would be worse.

    uc_struct --(UC_CPU)--> CPUState --(CPU_ENV)--> CPUX86State: regs[16] eip eflags cc_dst cc_src cc_src2 cc_op df hflags …

Memory is probed through /proc/self/mem, where a wild pointer is an error and not a crash.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from functools import cache

from emulator.cpu.libunicorn import ARCH_X86, MODE_64, REG_CR3, LibUnicorn, load
from emulator.errors import UserError

# 64-bit words of CPUX86State (target/i386/cpu.h); `probe` checks each that the core uses.
ENV_RIP, ENV_EFLAGS, ENV_CC_DST, ENV_CC_SRC = 16, 17, 18, 19
ENV_CC_OP, ENV_DF, ENV_HFLAGS = 42, 43, 44  # 32-bit words
ENV_SEGMENTS = 184  # bytes; each {u32 selector; u64 base; u32 limit; u32 flags} of 24 bytes: es cs ss ds fs gs ldt tr gdt idt
SEGMENT_BYTES = 24
ENV_CR = 53  # cr[0] as a 64-bit word

_REGISTERS = tuple(0x5EED_0000_1234_0000 + 0x1111 * i for i in range(16))
# uc_x86_reg numbers of rax rcx rdx rbx rsp rbp rsi rdi r8 … r15
_REGISTER_IDS = (35, 38, 40, 37, 44, 36, 43, 39, 106, 107, 108, 109, 110, 111, 112, 113)
_MOST_STATE = 1 << 18  # bytes of CPUState: most of them a cache of blocks
_DEBUG_PATTERN = struct.pack("<QQ", 0xFFFF0FF0, 0x400)  # DR6 and DR7 after reset


@dataclass(frozen=True)
class Layout:
    """Byte offsets: `uc_cpu` in uc_struct, `cpu_env` and `cpu_uc` in CPUState, the rest in CPUX86State or uc_struct."""

    uc_cpu: int
    cpu_env: int
    cpu_uc: int
    no_exit_request: int  # in uc_struct
    dr: int  # dr[0]
    error_code: int
    old_exception: int
    context_bytes: int  # size of CPUX86State up to end_reset_fields


class Prober:
    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mem", os.O_RDONLY)

    def read(self, address: int, size: int) -> bytes:
        """What can be read there, b"" at a wild address."""
        if not 0x1000 <= address < 1 << 47:
            return b""
        try:
            return os.pread(self._fd, size, address)
        except OSError:  # unmapped: what this way of reading is for
            return b""

    def close(self) -> None:
        os.close(self._fd)


def refuse(what: str) -> UserError:
    return UserError("self-test failed", where="processor", why=what, fix="this build of Unicorn is not the one measured: install unicorn==2.1.4")


def _find_env(prober: Prober, engine: int) -> tuple[int, int]:
    """Offsets (uc_struct to CPUState, CPUState to CPUX86State) by the planted registers; the known ones are tried first."""
    planted = struct.pack("<16Q", *_REGISTERS)
    for uc_cpu in (440, *range(0, 1024, 8)):
        cpu_bytes = prober.read(engine + uc_cpu, 8)
        cpu = int.from_bytes(cpu_bytes, "little")
        head = prober.read(cpu, 512)
        for cpu_env in (296, *range(0, len(head) - 7, 8)):
            env = int.from_bytes(head[cpu_env : cpu_env + 8], "little")
            if prober.read(env, 128) == planted:
                return uc_cpu, cpu_env
    raise refuse("the processor's state was not found")


def _find_no_exit_request(prober: Prober, engine: int, context_size: int) -> int:
    """The byte uc_struct.no_exit_request, behind the pair (u32 1, context size - 40)."""
    image = prober.read(engine, 4096)
    at = image.find(struct.pack("<II", 1, context_size - 40))
    if at < 0:
        raise refuse("no_exit_request was not found")
    offset = ((at + 8 + 7) & ~7) + 8 + 2
    hook_insert, no_exit_request, init_done = image[offset - 2], image[offset], image[offset + 1]
    if (hook_insert, no_exit_request, init_done) != (0, 0, 1):
        raise refuse(f"no_exit_request has strange neighbours {image[offset - 2 : offset + 2].hex()}")
    return offset


@cache
def find_layout() -> Layout:
    """Search a scratch instance. Raises UserError with the reason when anything is not where it must be."""
    lib: LibUnicorn = load()
    engine = ctypes.c_void_p()
    lib.check(lib.open(ARCH_X86, MODE_64, ctypes.byref(engine)), "uc_open")
    assert engine.value is not None
    prober = Prober()
    try:
        for number, value in zip(_REGISTER_IDS, _REGISTERS, strict=True):
            lib.set_register(engine.value, number, value)
        lib.set_register(engine.value, REG_CR3, 0x5000)
        context_size = lib.context_size(engine.value)
        uc_cpu, cpu_env = _find_env(prober, engine.value)
        cpu = int.from_bytes(prober.read(engine.value + uc_cpu, 8), "little")
        env = int.from_bytes(prober.read(cpu + cpu_env, 8), "little")
        image = prober.read(env, context_size)
        if int.from_bytes(image[(ENV_CR + 3) * 8 : (ENV_CR + 4) * 8], "little") != 0x5000:
            raise refuse("CR3 is not where it should be")
        at = image.find(_DEBUG_PATTERN)
        if at < 0:
            raise refuse("the debug registers were not found")
        dr = at - 48
        owner = struct.pack("<Q", engine.value)
        whole = prober.read(cpu, env - cpu) if 0 < env - cpu < _MOST_STATE else b""
        cpu_uc = whole.find(owner)
        if cpu_uc < 0 or cpu_uc % 8 or whole.count(owner) != 1:
            raise refuse("the way from the processor to its owner was not found")
        return Layout(uc_cpu, cpu_env, cpu_uc, _find_no_exit_request(prober, engine.value, context_size), dr, dr - 16, dr + 96, context_size - 40)
    finally:
        prober.close()
        lib.close(engine.value)
