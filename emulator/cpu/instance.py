"""One instance of Unicorn as a core uses it: its mode, its memory, its hooks. It can be closed and opened again under the same core: what is
lost then is translated code and TLB entries, and neither can be seen by a guest."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from emulator.cpu import budget, codestores, exitcheck, native, tlbcheck
from emulator.cpu.layout import find_layout
from emulator.cpu.libunicorn import (
    ARCH_X86,
    CPU_MODEL_WESTMERE,
    CTL_CPU_MODEL,
    CTL_TCG_BUFFER_SIZE,
    CTL_USE_EXITS,
    HOOK_BLOCK,
    HOOK_INSN,
    HOOK_INSN_INVALID,
    HOOK_INTR,
    INS_CPUID,
    INS_IN,
    INS_OUT,
    INS_RDTSC,
    INS_RDTSCP,
    INS_SYSCALL,
    INS_SYSENTER,
    INTR_CALLBACK,
    INVALID_CALLBACK,
    MODE_64,
    PROT_ALL,
    REG_CR0,
    REG_CR4,
    LibUnicorn,
)

_CR0 = 0x80050033  # PG AM WP NE ET TS=0 MP PE, as Xen shows a PV guest
_CR4_PAE, _CR4_OSFXSR, _CR4_OSXMMEXCPT = 0x20, 0x200, 0x400
_MSR_EFER, _EFER = 0xC0000080, 0xD01  # NXE LMA LME SCE


class Instance:
    """`memory`: host address and bytes of the machine's RAM from 0. `control`: the control block, which learns where the processor's state
    lies. `on_interrupt` and `on_invalid` are Unicorn's hooks of that name."""

    def __init__(self, lib: LibUnicorn, memory: tuple[int, int], translation_buffer: int, control: ctypes.Array[ctypes.c_uint64],
                 on_interrupt: Callable[[int, int, int], None], on_invalid: Callable[[int, int], bool]) -> None:  # fmt: skip
        self._lib = lib
        layout = find_layout()
        tlbcheck.check()
        exitcheck.leave_out()
        codestores.look_by_page()
        code = native.native_code()
        engine = ctypes.c_void_p()
        lib.check(lib.open(ARCH_X86, MODE_64, ctypes.byref(engine)), "uc_open")
        assert engine.value is not None
        self.engine = engine.value
        self.control(CTL_CPU_MODEL, ctypes.c_int(CPU_MODEL_WESTMERE))
        self.control(CTL_TCG_BUFFER_SIZE, ctypes.c_uint32(translation_buffer))
        self.control(CTL_USE_EXITS, ctypes.c_int(1))  # no `until` address may act as a HLT
        lib.check(lib.mem_map_ptr(self.engine, 0, memory[1], PROT_ALL, memory[0]), "uc_mem_map_ptr")
        lib.set_register(self.engine, REG_CR4, _CR4_PAE | _CR4_OSFXSR | _CR4_OSXMMEXCPT)
        lib.set_msr(self.engine, _MSR_EFER, _EFER)
        lib.set_register(self.engine, REG_CR0, _CR0)
        self.cpu: int = ctypes.c_uint64.from_address(self.engine + layout.uc_cpu).value
        self.env: int = ctypes.c_uint64.from_address(self.cpu + layout.cpu_env).value
        # Unicorn would otherwise look for a stop after every store and run a read-modify-write twice; budgets stop at block starts only.
        ctypes.c_uint8.from_address(self.engine + layout.no_exit_request).value = 1
        control[native.ENV], control[native.CPU] = self.env, self.cpu
        control[native.INLINE] = budget.may_be_inlined()
        data = ctypes.addressof(control)
        lib.add_hook(self.engine, HOOK_BLOCK, code.address["block"], data)
        for name, instruction in (("syscall", INS_SYSCALL), ("sysenter", INS_SYSENTER), ("cpuid", INS_CPUID), ("rdtsc", INS_RDTSC),
                                  ("rdtscp", INS_RDTSCP), ("in", INS_IN), ("out", INS_OUT)):  # fmt: skip
            lib.add_hook(self.engine, HOOK_INSN, code.address[name], data, instruction)
        # The callbacks must outlive the engine: ctypes frees them with their Python objects.
        callbacks = (INTR_CALLBACK(on_interrupt), INVALID_CALLBACK(on_invalid))
        self._callbacks: tuple[object, ...] = callbacks
        for kind, callback in zip((HOOK_INTR, HOOK_INSN_INVALID), callbacks, strict=True):
            pointer = ctypes.cast(callback, ctypes.c_void_p).value
            assert pointer is not None
            lib.add_hook(self.engine, kind, pointer, data)

    def control(self, control: int, *arguments: object) -> None:
        """uc_ctl."""
        self._lib.check(self._lib.ctl(ctypes.c_void_p(self.engine), ctypes.c_int(control), *arguments), f"uc_ctl({control:#x})")

    def close(self) -> None:
        self._lib.close(self.engine)
        self.engine = 0
        self._callbacks = ()
