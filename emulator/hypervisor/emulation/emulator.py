"""The three entries of the emulation, over one decoder cache each."""

from __future__ import annotations

from typing import Final

from emulator.hypervisor.emulation.decoding import Decoder, Disassembler
from emulator.hypervisor.emulation.msrs import MISC_FEATURES_CPUID_FAULTING, MSR_MISC_FEATURES_ENABLES
from emulator.hypervisor.emulation.privileged import PrivilegedHandler, answer_cpuid, compile_privileged, iopl_ok
from emulator.hypervisor.emulation.stackfault import StackTest, compile_stack_test
from emulator.hypervisor.emulation.state import (
    FAULT_GP,
    MASK64,
    MAX_INSTRUCTION,
    PFEC_FETCH,
    UNHANDLED,
    EmulationState,
    GuestPageFault,
    Outcome,
    page_fault,
    retire,
)
from emulator.hypervisor.emulation.store import StoreHandler, WriteEntry, compile_store

_CLI, _STI = 0xFA, 0xFB
_FORCED: Final = b"\x0f\x0bxen"  # ud2; .ascii "xen"
_CPUID: Final = b"\x0f\xa2"


class Emulator:
    """Belongs to one thread at a time (a domain's worker); holds nothing of a guest but decoded instructions."""

    def __init__(self) -> None:
        long, compatible = Disassembler(64), Disassembler(32)
        self._privileged: dict[int, Decoder[PrivilegedHandler]] = {64: Decoder(long, compile_privileged), 32: Decoder(compatible, compile_privileged)}
        self._store: Decoder[StoreHandler] = Decoder(long, compile_store)
        self._stack: Decoder[StackTest] = Decoder(long, compile_stack_test)

    def privileged(self, state: EmulationState) -> Outcome:
        """After a #GP with error code 0 at `state.rip`: Xen's pv_emulate_privileged_op()."""
        rip = state.rip
        window = state.fetch(rip, MAX_INSTRUCTION)
        if window and window[0] in (_CLI, _STI):  # thousands a boot, each at a place of its own
            return retire(state, (rip + 1) & MASK64) if iopl_ok(state) else UNHANDLED
        decoder = self._privileged.get(state.code_size)
        if decoder is None:
            return UNHANDLED
        handler = decoder.handler(window)
        if handler is None:
            return _undecoded(rip, window, 0)
        try:
            return handler(state)
        except GuestPageFault as fault:
            return page_fault(fault.va, fault.error_code)

    def stack_fault(self, state: EmulationState) -> bool:
        """Whether the #GP(0) at `state.rip`, which nothing emulates, is the #SS(0) of a non-canonical stack."""
        if state.code_size != 64:
            return False
        test = self._stack.handler(state.fetch(state.rip, MAX_INSTRUCTION))
        return test is not None and test(state)

    def forced(self, state: EmulationState) -> Outcome:
        """After a #UD at `state.rip`: the forced emulation prefix, which Xen takes for CPUID only (emul-inv-op.c)."""
        rip = state.rip
        length = len(_FORCED) + len(_CPUID)
        code = state.fetch(rip, length)
        for start, expected in ((0, _FORCED), (len(_FORCED), _CPUID)):
            end = start + len(expected)
            if len(code) < end:
                return page_fault((rip + len(code)) & MASK64, 0)
            if code[start:end] != expected:
                return UNHANDLED
        if not state.in_kernel and (state.read_msr(MSR_MISC_FEATURES_ENABLES) or 0) & MISC_FEATURES_CPUID_FAULTING:
            state.rip = (rip + len(_FORCED)) & MASK64
            return FAULT_GP
        answer_cpuid(state)
        return retire(state, (rip + length) & MASK64)

    def store(self, state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        """After a write fault of the guest kernel at `fault_va` in an L1 table mapped read-only: Xen's ptwr_do_page_fault().

        `write(entry, old, new, compare)` gets the entry's linear address (8-aligned, in the page of `fault_va`), its contents
        before and after, and whether the guest asked for a compare and exchange; False refuses and the #PF is the guest's.
        """
        window = state.fetch(state.rip, MAX_INSTRUCTION)
        handler = self._store.handler(window)
        if handler is None:
            return _undecoded(state.rip, window, PFEC_FETCH)
        try:
            return handler(state, fault_va, write)
        except GuestPageFault as fault:
            return page_fault(fault.va, fault.error_code)


def _undecoded(rip: int, window: bytes, error_code: int) -> Outcome:
    """No instruction: where bytes were missing it is their page that faults."""
    if len(window) < MAX_INSTRUCTION:
        return page_fault((rip + len(window)) & MASK64, error_code)
    return UNHANDLED
