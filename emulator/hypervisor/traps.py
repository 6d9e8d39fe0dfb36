"""Every trap of a guest in one place: decide, act, resume (xen/arch/x86/traps.c, pv/traps.c, pv/ro-page-fault.c).

The steps stay apart, so that each can be made native alone: the core tells the vector; here it is decided whether the trap is a
hypercall, the hypervisor's own business (first execution of a page, a write to a page table, an instruction to emulate), or
the guest's; then it is resumed, with its events delivered on the way out.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

from emulator.abi.errno import describe
from emulator.abi.xen import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_SS,
    FLAT_RING3_CS32,
    FLAT_RING3_DS,
    FRAME_MASK,
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    RW,
    TRAP_BP,
    TRAP_DB,
    TRAP_GP,
    TRAP_NAMES,
    TRAP_NM,
    TRAP_OF,
    TRAP_PF,
    TRAP_SS,
    TRAP_UD,
    TRAPS_WITH_ERROR_CODE,
    VI_UPCALL_MASK,
    PFEC_insn,
    PFEC_present,
    PFEC_reserved,
    PFEC_user,
    PFEC_write,
    VMASST_TYPE_writable_pagetables,
)
from emulator.cpu.core import DF, MASK64, R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI, RSP, TF
from emulator.cpu.layout import ENV_EFLAGS
from emulator.cpu.native import CROSSING, LEAVES, VECTOR_CPUID, VECTOR_SYSCALL, VECTOR_SYSENTER
from emulator.hypervisor.clock import HYPERCALL_COST_NS, TRAP_COST_NS
from emulator.hypervisor.emulation import Kind, Outcome
from emulator.hypervisor.emulation.control import DR6_CAUSES, DR6_STEP
from emulator.hypervisor.emulation.msrs import canonical
from emulator.hypervisor.emulation.state import retire
from emulator.hypervisor.emulation_port import EmulationPort
from emulator.hypervisor.hypercalls import HANDLERS
from emulator.hypervisor.iret import FLAT_CODE32, FLAT_DATA32, iret
from emulator.hypervisor.ldt import map_ldt_page
from emulator.hypervisor.memory.frames import L1
from emulator.hypervisor.memory.promotion import ALLOWANCE
from emulator.hypervisor.refusal import DomainCrash, Preempted, Refusal, Restart
from emulator.hypervisor.trace import call_name

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_HYPERCALL_COST, _TRAP_COST = HYPERCALL_COST_NS, TRAP_COST_NS
_ENOSYS = -38 & MASK64
_IRET = 23
_INT80 = 0x80


def trap_name(vector: int) -> str:
    return TRAP_NAMES[vector] if vector < len(TRAP_NAMES) else f"INT {vector:#x}"


class Traps:
    """The trap handler of one domain; `handle` is what the core calls."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._core, self._frames = domain.core, domain.frames
        self._ports = {vcpu.number: EmulationPort(vcpu) for vcpu in domain.vcpus}

    def handle(self, vector: int) -> None:
        domain, core = self._domain, self._core
        vcpu = domain.current
        domain.tables.allowance = ALLOWANCE
        began = perf_counter_ns()
        by_sysret = False
        try:
            if vector == VECTOR_SYSCALL:
                core.rip += 2
                if vcpu.kernel_mode:
                    by_sysret = self._hypercall(vcpu)
                else:
                    domain.clock.charge(_TRAP_COST)
                    self._system_call(vcpu)
            else:
                domain.clock.charge(_TRAP_COST)
                domain.stats.traps += 1
                if vector == TRAP_PF and not core.software_interrupt:
                    self._page_fault(vcpu, core.error_code, core.cr2)
                else:
                    self._other(vcpu, vector)
            if domain.tables.stale:
                domain.tables.stale = False
                core.flush_tlb()
            if domain.foreign_writes.count:
                domain.foreign_writes.forget()
                core.control[CROSSING] = 0  # the next crossing is such a point too
            core.control[LEAVES] = not (self._frames.leaving or self._frames.unfinished)
            memory, info = domain.memory.bytes, vcpu.info
            if memory[info] and not memory[info + VI_UPCALL_MASK]:
                vcpu.deliver_events()
            # That was the look at what happened in here. Left over, it would be made again at the next cut, and those are the host's.
            domain.rotation.fresh = vcpu.nmi_pending and not vcpu.nmi_masked
            if by_sysret and core.env[ENV_EFLAGS] & TF and vcpu.can_run:
                self._stepped(vcpu)  # unlike IRET, SYSRET with TF traps before another instruction
        except DomainCrash as crash:
            domain.crash(str(crash))
        vcpu.accounting.hypervisor_ns += perf_counter_ns() - began

    # --- hypercalls and system calls -----------------------------------------------------------------------------------------

    def _hypercall(self, vcpu: Vcpu) -> bool:
        """Whether the guest is gone back to by SYSRET."""
        domain, regs = self._domain, self._core.regs
        number = regs[RAX]
        domain.clock.charge(_HYPERCALL_COST)
        stats = domain.stats
        stats.hypercalls += 1
        trace = domain.trace
        if number == _IRET:
            stats.by_number[_IRET] += 1
            regs[RAX], by_sysret = iret(vcpu)
            if trace is not None:
                trace.note(vcpu, "hypercall", "iret", f"to {self._core.rip:#x}, {'kernel' if vcpu.kernel_mode else 'user'} mode")
            return by_sysret
        handler = HANDLERS[number] if number < len(HANDLERS) else None
        if trace is not None:
            trace.enter(vcpu, number, (regs[RDI], regs[RSI], regs[RDX], regs[R10], regs[R8], regs[R9]))
        if handler is None:
            result = -38
            reason = f"hypercall {number} is not there"
        else:
            stats.by_number[number] += 1
            reason = ""
            try:
                result = handler(vcpu, regs[RDI], regs[RSI], regs[RDX], regs[R10], regs[R8], regs[R9])
            except Refusal as refusal:
                result, reason = -refusal.errno, refusal.reason
            except Preempted as preempted:
                for register, argument in zip((RDI, RSI, RDX, R10, R8, R9), preempted.arguments, strict=False):
                    regs[register] = argument & MASK64
                self._core.rip -= 2
                result = number
        if reason:
            domain.refused(call_name(number), Refusal(-result, reason))
        regs[RAX] = result & MASK64
        if trace is not None:
            trace.leave(describe(result), reason)
        vcpu.accounting.last_call = (number, result)
        return True

    def _system_call(self, vcpu: Vcpu) -> None:
        """SYSCALL in guest user mode: on to the kernel's own entry, with the flat selectors that Xen's entry leaves."""
        core, handlers = self._core, vcpu.handlers
        core.regs[RCX], core.regs[R11] = core.rip, core.rflags
        if core.code_size == 64:
            callback = handlers.syscall
            core.load_code64(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
            vcpu.teach_system_call(callback.address, handlers.syscall.masks)
        else:
            callback = handlers.syscall32
            core.load_code(FLAT_RING3_CS32, FLAT_CODE32, FLAT_RING3_DS, FLAT_DATA32)
        if not callback.address:
            core.rip -= 2
            vcpu.inject(TRAP_UD, by_processor=False)
            return
        vcpu.bounce(callback.address, handlers.syscall.masks, "system call")  # VGCF_syscall_disables_events holds for both
        core.rflags &= ~DF
        self._domain.stats.system_calls += 1

    def _sysenter(self, vcpu: Vcpu) -> None:
        """The instruction keeps neither where it was nor the stack: sysenter_entry shows nulls. A kernel's own is a #GP; Xen would take
        the null for its stack and crash it."""
        callback, core = vcpu.handlers.sysenter, self._core
        if vcpu.kernel_mode:
            vcpu.inject(TRAP_GP, 0)
            return
        core.load_code64(3, FLAT_RING3_DS)
        core.rip = core.regs[RSP] = 0
        if callback.address:
            vcpu.bounce(callback.address, callback.masks, "sysenter")
        else:
            vcpu.inject(TRAP_GP, 0, by_processor=False)

    def _stepped(self, vcpu: Vcpu) -> None:
        vcpu.debug.dr6 |= DR6_STEP
        vcpu.accounting.last_trap = f"{trap_name(TRAP_DB)} at {self._core.rip:#x}"
        vcpu.inject(TRAP_DB)

    # --- page faults ---------------------------------------------------------------------------------------------------------

    def _page_fault(self, vcpu: Vcpu, error_code: int, va: int) -> None:
        domain = self._domain
        domain.stats.page_faults += 1
        if HYPERVISOR_VIRT_START <= va < HYPERVISOR_VIRT_END:
            page = domain.layout.ldt_page(va)
            if page is not None and not error_code & PFEC_user:  # a descriptor was looked up
                if map_ldt_page(vcpu, page[1]):
                    return
                va = vcpu.ldt_base + (page[1] << 12 | va & 0xFFF) & MASK64  # handle_ldt_mapping_fault: the guest knows no other
        elif error_code & PFEC_present and not error_code & PFEC_reserved:
            index = domain.guest.entry_index(va)
            if error_code & PFEC_insn:
                if index >= 0 and domain.tables.executed(index):
                    self._core.flush_page(va)
                    return
            elif (error_code & PFEC_write and vcpu.kernel_mode and index >= 0 and domain.vm_assist >> VMASST_TYPE_writable_pagetables & 1
                  and self._table_write(vcpu, index, va)):  # fmt: skip
                return
        vcpu.accounting.last_trap = f"#PF error {error_code:#x} at {va:#x}"
        vcpu.inject(TRAP_PF, error_code, va)

    def _table_write(self, vcpu: Vcpu, index: int, va: int) -> bool:
        """The writable-page-table assist: a store to a read-only page that is an L1 table becomes a checked entry update."""
        domain = self._domain
        entry = domain.memory.words[index]
        mfn = (entry & FRAME_MASK) >> 12
        frames = domain.frames
        if entry & RW or not frames.owned(mfn) or frames.type[mfn] != L1 or not frames.count[mfn]:
            return False

        def write(at: int, _old: int, new: int, _compare: bool) -> bool:
            try:
                domain.tables.write_l1(mfn << 9 | (at & 0xFFF) >> 3, new)
            except Refusal as refusal:
                domain.refused("page table write", refusal)
                return False
            return True

        domain.stats.table_writes += 1
        return self._carry_out(vcpu, domain.emulator.store(self._ports[vcpu.number], va, write))

    # --- everything else --------------------------------------------------------------------------------------------------

    def _other(self, vcpu: Vcpu, vector: int) -> None:
        core, domain = self._core, self._domain
        if vector == VECTOR_CPUID:
            regs = core.regs
            regs[RAX], regs[3], regs[RCX], regs[RDX] = self._ports[vcpu.number].cpuid(regs[RAX] & 0xFFFFFFFF, regs[RCX] & 0xFFFFFFFF)
            self._carry_out(vcpu, retire(self._ports[vcpu.number], core.rip + 2))
            return
        if vector == VECTOR_SYSENTER:
            self._sysenter(vcpu)
            return
        status = core.take_debug_status() if vector == TRAP_DB else 0
        if core.software_interrupt and not status & DR6_CAUSES:
            self._software_interrupt(vcpu, vector)
            return
        error_code = core.error_code if vector in TRAPS_WITH_ERROR_CODE else None
        if vector == TRAP_GP and not error_code and canonical(core.rip):
            try:
                if self._carry_out(vcpu, domain.emulator.privileged(self._ports[vcpu.number])):
                    return
            except Restart:
                return  # X86EMUL_RETRY: a MOV to CR3 of a tree that is not validated yet
            if domain.emulator.stack_fault(self._ports[vcpu.number]):
                vector = TRAP_SS
        elif vector == TRAP_UD:
            if self._carry_out(vcpu, domain.emulator.forced(self._ports[vcpu.number])):
                return
            vector, error_code = self._mend_invalid(vcpu)
        elif vector == TRAP_DB:
            vcpu.debug.record(status)
        elif vector == TRAP_NM:
            core.task_switched = False  # the trap is the guest's, once (do_device_not_available)
        vcpu.accounting.last_trap = f"{trap_name(vector)} at {core.rip:#x}"
        vcpu.inject(vector, error_code)

    def _mend_invalid(self, vcpu: Vcpu) -> tuple[int, int | None]:
        """What hardware raises for instructions that this core calls invalid: ICEBP is #DB behind it, RDPMC #GP in ring 3."""
        code = self._ports[vcpu.number].fetch(self._core.rip, 2)
        if code[:1] == b"\xf1":
            self._core.rip += 1
            return TRAP_DB, None
        if code == b"\x0f\x33":
            return TRAP_GP, 0
        return TRAP_UD, None

    def _software_interrupt(self, vcpu: Vcpu, vector: int) -> None:
        """INT n by the guest's own table: its privilege level must admit the caller, else #GP at the INT. Xen's own gates of #BP, #OF and
        INT 0x80 (int80_direct_trap) admit everybody."""
        entry = vcpu.handlers.traps.get(vector)
        level = 1 if vcpu.kernel_mode else 3
        if (entry is not None and (entry.dpl >= level or vector == _INT80)) or vector in (TRAP_BP, TRAP_OF):
            vcpu.accounting.last_trap = f"INT {vector:#x}"
            if entry is None:
                vcpu.inject(vector)
            else:
                vcpu.bounce(entry.address, entry.masks, f"INT {vector:#x}", resume=vector not in (TRAP_BP, TRAP_OF, _INT80))  # that came by a #GP
            return
        self._core.rip -= 2
        vcpu.inject(TRAP_GP, vector << 3 | 2)

    def _carry_out(self, vcpu: Vcpu, outcome: Outcome) -> bool:
        """What the emulation came to; False when the trap is the guest's after all."""
        if outcome.kind is Kind.UNHANDLED:
            return False
        if outcome.kind is Kind.FAULT:
            vcpu.inject(outcome.vector, outcome.error_code, outcome.cr2)
        elif outcome.step:
            self._stepped(vcpu)
        return True
