"""A virtual CPU as Xen keeps it for a PV guest: its two modes, its handlers, and the frames it is interrupted with.

A PV guest's kernel and user code both run in ring 3; which of the two it is, is the hypervisor's knowledge (`kernel_mode`,
Xen's TF_kernel_mode). The two have page tables and a GS base of their own, swapped on every crossing (toggle_guest_mode,
xen/arch/x86/pv/domain.c). A trap or event is delivered by writing a frame on the guest kernel's stack (create_bounce_frame,
xen/arch/x86/x86_64/entry.S), from the stack's top downwards:

    SS  RSP  RFLAGS  CS | saved upcall mask << 32  RIP  [error code]  [GS FS ES DS for failsafe]  R11  RCX
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from emulator.abi.errno import describe
from emulator.abi.xen import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_SS,
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    TRAP_NMI,
    TRAP_PF,
    TRAPS_WITH_ERROR_CODE,
    VI_CR2,
    VI_PENDING_SEL,
    VI_UPCALL_MASK,
    VI_UPCALL_PENDING,
    VMASST_TYPE_architectural_iopl,
)
from emulator.cpu.core import AC, CS, GS, IF, IOPL, MASK64, NT, R11, RCX, RF, RSP, SS, TF, VM
from emulator.cpu.native import CROSSING, IO_ALLOWED
from emulator.hypervisor.crossing import Crossing
from emulator.hypervisor.emulation.control import DebugRegisters
from emulator.hypervisor.refusal import DomainCrash, Refusal
from emulator.hypervisor.trace import call_name

if TYPE_CHECKING:
    from emulator.hypervisor.context import GuestContext
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.grants.peers import Key, Reply

_FRAME: Final = Struct("<7Q")
_FRAME_ERROR: Final = Struct("<8Q")
_FRAME_FAILSAFE: Final = Struct("<11Q")
_FAULTS: Final = frozenset({0, 5, 6, 7, 11, 12, 13, 14, 16, 17, 19})  # with RF in the flags that the processor pushes (SDM 3B, 17.3.1.1)
_CLEARED_ON_TRAP: Final = AC | VM | RF | NT | TF


@dataclass(slots=True)
class Callback:
    """An entry point of the guest kernel; `masks` events while it runs."""

    address: int = 0
    masks: bool = False


class TrapEntry(msgspec.Struct, frozen=True, gc=False):
    """One vector of set_trap_table: privilege level needed for INT n, whether events are masked, and where to go."""

    dpl: int
    masks: bool
    cs: int
    address: int


@dataclass(slots=True)
class Timers:
    """In the guest's system time (ns); 0: none. A PV vCPU begins with a 100 Hz ticker (pv_vcpu_initialise); a periodic timer stands still
    while its vCPU blocks (schedule, xen/common/sched/core.c), so it wakes nobody."""

    singleshot: int = 0
    period: int = 10_000_000
    ticked: int = 0  # when the periodic one fired last


@dataclass(slots=True)
class Accounting:
    """What consoles show; nothing here is seen by the guest."""

    last_trap: str = ""
    last_call: tuple[int, int] = (-1, 0)  # number and result of the last hypercall
    guest_ns: int = 0
    hypervisor_ns: int = 0
    idle_ns: int = 0
    cpu: int = -1


@dataclass(slots=True)
class Handlers:
    """What the guest kernel registered."""

    traps: dict[int, TrapEntry] = field(default_factory=dict)
    event: Callback = field(default_factory=Callback)
    failsafe: Callback = field(default_factory=Callback)
    syscall: Callback = field(default_factory=Callback)
    syscall32: Callback = field(default_factory=Callback)
    sysenter: Callback = field(default_factory=Callback)


class Vcpu(Crossing):
    """State of one vCPU. The registers are the core's while it is loaded there."""

    def __init__(self, domain: Domain, number: int, info: int) -> None:
        super().__init__(domain.core, info)
        self.domain = domain
        self.number = number
        self.kernel_ss = FLAT_KERNEL_SS
        self.handlers = Handlers()
        self.debug = DebugRegisters()
        self.cr4 = 0
        self.iopl = 0  # as EFLAGS has it
        self.io_bitmap, self.io_ports = 0, 0  # guest address of the bitmap, ports it covers
        self.gdt_frames: tuple[int, ...] = ()
        self.gdt_entries = 0
        self.ldt_base, self.ldt_entries = 0, 0
        self.ldt_frames: dict[int, int] = {}  # page of the LDT -> frame mapped for it
        self.blocked = False
        self.up = self.initialised = number == 0
        self.context: GuestContext | None = None  # its first state, until its first turn
        self.nmi_pending = self.nmi_masked = False  # masked while one is handled, up to the next iret (async_exception_mask)
        self.polled: frozenset[int] = frozenset()
        self.poll_deadline = 0
        self.timers = Timers()
        self.runstate_area = 0
        self.time_area = 0
        self.accounting = Accounting()
        self.waiting: dict[Key, int] = {}  # what other domains were asked and have not answered, each with its request's number
        self.asks = 0  # requests sent: a number is never used again, whatever time the domain goes back to
        self.answers: dict[Key, Reply] = {}

    # --- events -----------------------------------------------------------------------------------------------------------

    @property
    def upcall_masked(self) -> bool:
        return self.domain.memory.bytes[self.info + VI_UPCALL_MASK] != 0

    @upcall_masked.setter
    def upcall_masked(self, value: bool) -> None:
        self.domain.memory.bytes[self.info + VI_UPCALL_MASK] = 1 if value else 0

    @property
    def upcall_pending(self) -> bool:
        return self.domain.memory.bytes[self.info + VI_UPCALL_PENDING] != 0

    def mark_pending(self, word: int) -> None:
        """An unmasked event arrived in `word` of the pending bitmap: vcpu_mark_events_pending in Xen."""
        self.domain.memory.words[(self.info + VI_PENDING_SEL) >> 3] |= 1 << word
        self.mark_upcall()

    def mark_upcall(self) -> None:
        self.domain.memory.bytes[self.info + VI_UPCALL_PENDING] = 1
        self.wake()

    def wake(self) -> None:
        if self.blocked:
            self.blocked = False
            self.polled = frozenset()
            self.poll_deadline = 0
            self.domain.time.runstate_changed(self)
        self.domain.rotation.woke()

    @property
    def can_run(self) -> bool:
        return self.up and not self.blocked and not self.waiting

    def deliver_events(self) -> None:
        """test_all_events: an NMI first, whether events are masked or not, but none within another; it is lost where there is no handler.
        Then the guest is interrupted when it has events and does not mask them."""
        if self.nmi_pending and not self.nmi_masked:
            self.nmi_pending = False
            entry = self.handlers.traps.get(TRAP_NMI)
            if entry is not None:
                self.nmi_masked = True
                self.core.control[CROSSING] = 0  # the iret that ends it is Python's
                self.bounce(entry.address, entry.masks, "NMI")
        memory, info = self.domain.memory.bytes, self.info
        if memory[info] and not memory[info + VI_UPCALL_MASK]:
            self.bounce(self.handlers.event.address, True, "event callback")
            self.domain.stats.upcalls += 1

    # --- entering and leaving the guest kernel ------------------------------------------------------------------------------

    def toggle_mode(self) -> None:
        """From guest user to guest kernel or back: page tables and GS base change places."""
        core = self.core
        self.kernel_mode = not self.kernel_mode
        current = core.segment(GS)[1]
        core.set_segment_base(GS, self.gs_base_other)
        self.gs_base_other = current
        core.control[IO_ALLOWED] = self.io_rights[self.kernel_mode]
        core.turn((self.cr3_kernel if self.kernel_mode else self.cr3_user) << 12)

    @property
    def last_hypercall(self) -> str:
        number, result = self.accounting.last_call
        return f"{call_name(number)} = {describe(result)}" if number >= 0 else ""

    def bounce(
        self, address: int, masks: bool, what: str, error_code: int | None = None, *, failsafe: tuple[int, ...] = (), resume: bool = False
    ) -> None:
        """Interrupt the guest: a frame on its kernel stack, and on with `address`. `failsafe`: the selectors of DS, ES, FS and GS of which
        one could not be loaded. `resume`: the frame's flags have RF. Raises DomainCrash where Xen does."""
        core, regs, domain = self.core, self.core.regs, self.domain
        if not address:
            raise DomainCrash(f"{what} at {core.rip:#x}, but no handler is registered")
        cs, ss = core.segment(CS)[0], core.segment(SS)[0]
        flags = core.rflags
        rsp = regs[RSP]
        if self.kernel_mode:
            sp = rsp
            cs &= 0xFFFC  # says "kernel" to the guest
        else:
            self.toggle_mode()
            sp = self.kernel_sp
        memory, info = domain.memory.bytes, self.info + VI_UPCALL_MASK
        saved_mask = memory[info]
        if masks:
            memory[info] = 1
        shown = flags & ~(IF | IOPL)
        if not saved_mask:
            shown |= IF
        if resume:
            shown |= RF
        if domain.vm_assist >> VMASST_TYPE_architectural_iopl & 1:
            shown |= self.iopl
        top = (core.rip, cs | saved_mask << 32, shown, rsp, ss)
        if failsafe:
            frame = _FRAME_FAILSAFE.pack(regs[RCX], regs[R11], *failsafe, *top)
        elif error_code is None:
            frame = _FRAME.pack(regs[RCX], regs[R11], *top)
        else:
            frame = _FRAME_ERROR.pack(regs[RCX], regs[R11], error_code, *top)
        sp = (sp & ~15 & MASK64) - len(frame)
        if HYPERVISOR_VIRT_START <= sp < HYPERVISOR_VIRT_END:
            raise DomainCrash(f"{what}: kernel stack {sp:#x} lies in the hypervisor's range")
        try:
            domain.guest.write(sp & MASK64, frame)
        except Refusal as refusal:
            raise DomainCrash(f"{what}: cannot write the frame to the kernel stack: {refusal.reason}") from None
        regs[RSP] = sp & MASK64
        core.rflags = flags & ~_CLEARED_ON_TRAP
        core.load_code64(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        core.rip = address
        if domain.trace is not None:
            domain.trace.note(self, "event" if address == self.handlers.event.address else "trap", what, f"from {top[0]:#x}")

    def refresh_io_rights(self) -> None:
        """After the virtual IOPL or its meaning changed (iopl_ok in emul-priv-op.c): refused instructions trap, to be looked at."""
        level = self.iopl >> 12
        architectural = self.domain.vm_assist >> VMASST_TYPE_architectural_iopl & 1
        self.io_rights = (int(level == 3), int(level >= (0 if architectural else 1)))
        self.core.control[IO_ALLOWED] = self.io_rights[self.kernel_mode]

    def inject(self, vector: int, error_code: int | None = None, cr2: int = 0, *, by_processor: bool = True) -> None:
        """Deliver an exception (pv_inject_event): #PF with CR2 and the guest's own idea of user mode. `by_processor`: it was raised by the
        instruction at RIP, not for a frame of the hypervisor's own."""
        if vector == TRAP_PF:
            code = (error_code or 0) & ~4
            error_code = code if self.kernel_mode else code | 4
            self.domain.memory.words[(self.info + VI_CR2) >> 3] = cr2
        entry = self.handlers.traps.get(vector)
        from_user = "" if self.kernel_mode else " in user mode"
        name = self.domain.trap_name(vector)
        what = f"{name}{from_user}" + (f" (error code {error_code:#x}, CR2 {cr2:#x})" if vector == TRAP_PF else "")
        if entry is None:
            raise DomainCrash(f"{what} at {self.core.rip:#x}, but no handler is registered")
        pushed = (error_code or 0) if vector in TRAPS_WITH_ERROR_CODE else None
        self.bounce(entry.address, entry.masks, what, pushed, resume=by_processor and vector in _FAULTS)

    # --- segments -----------------------------------------------------------------------------------------------------------

    def set_gdt(self, frames: tuple[int, ...], entries: int) -> None:
        """Validated descriptor frames become the guest's GDT, Xen's own page behind them."""
        self.gdt_frames, self.gdt_entries = frames, entries
        self.forget_taught()
        self.domain.layout.map_gdt(self.number, frames)
        self.domain.tables.stale = True
