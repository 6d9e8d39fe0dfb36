"""What the emulation needs of a vCPU, and what it answers.

`EmulationState` is the vCPU as its guest sees it at the faulting instruction; the emulation changes it only when an
instruction retires (a REP instruction also after the iterations that were done). `Outcome` tells the caller what to do next.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

MASK64: Final = (1 << 64) - 1
PAGE_MASK: Final = MASK64 & ~0xFFF

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

CF, PF, AF, ZF, SF, TF, DF, OF, RF = 1, 4, 0x10, 0x40, 0x80, 0x100, 0x400, 0x800, 0x10000
ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF

VECTOR_UD, VECTOR_GP, VECTOR_PF = 6, 13, 14
PFEC_WRITE, PFEC_USER, PFEC_FETCH = 2, 4, 16

MAX_INSTRUCTION: Final = 15  # bytes


class GuestPageFault(Exception):
    """A guest access failed: raised by `EmulationState.read` and `write`; becomes a #PF with this error code and CR2."""

    def __init__(self, va: int, error_code: int) -> None:
        super().__init__(f"guest page fault at {va:#x}, error code {error_code:#x}")
        self.va = va
        self.error_code = error_code


class EmulationState(Protocol):
    """A vCPU at a faulting instruction. Linear addresses, bytes in little-endian order, 64-bit values unsigned."""

    @property
    def regs(self) -> MutableSequence[int]:
        """16 general registers in x86 encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8 … r15."""

    rip: int
    rflags: int

    @property
    def in_kernel(self) -> bool:
        """Guest kernel mode (Xen's guest_kernel_mode)."""

    @property
    def code_size(self) -> int:
        """Bits of the present code segment: 64, 32 or 16."""

    @property
    def iopl(self) -> int:
        """Virtual IOPL where EFLAGS has it: 0, 0x1000, 0x2000 or 0x3000."""

    @property
    def architectural_iopl(self) -> bool:
        """The domain enabled VMASST_TYPE_architectural_iopl: its kernel counts as CPL 0 and not as CPL 1 for IOPL."""

    def io_permitted(self, port: int, size: int) -> bool:
        """Whether the bitmap of PHYSDEVOP_set_iobitmap allows `size` bytes from `port`."""

    def fetch(self, va: int, count: int) -> bytes:
        """Code bytes; fewer than `count` where the next page cannot be executed."""

    def read(self, va: int, count: int) -> bytes:
        """`count` bytes as the guest could read them; raises GuestPageFault."""

    def write(self, va: int, data: bytes) -> None:
        """Write as the guest could; raises GuestPageFault."""

    def segment_base(self, name: str) -> int:
        """Linear base of "es", "cs", "ss", "ds", "fs" or "gs"."""

    def read_cr(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4 as the guest sees them."""

    def write_cr(self, number: int, value: int) -> bool:
        """Set CR0 (TS only differs), CR2, CR3 or CR4 (already fixed up); False refuses (#GP)."""

    def read_dr(self, number: int) -> int | None:
        """DR0–3, DR6 or DR7; None where there is none (#UD)."""

    def write_dr(self, number: int, value: int) -> bool:
        """Set DR0–3, DR6 or DR7 under the checks of do_set_debugreg; False refuses (#GP)."""

    def read_msr(self, index: int) -> int | None:
        """None refuses (#GP)."""

    def write_msr(self, index: int, value: int) -> bool:
        """False refuses (#GP)."""

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX."""


class Kind(Enum):
    """What an attempt to emulate came to."""

    DONE = "done"
    FAULT = "fault"
    UNHANDLED = "unhandled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """DONE: retired (or one REP iteration is), `step` asks for a #DB with DR6.BS. FAULT: inject `vector` (with
    `error_code` unless None, and CR2 = `cr2` for a #PF) at the state's RIP. UNHANDLED: the original fault is the guest's."""

    kind: Kind
    vector: int = -1
    error_code: int | None = None
    cr2: int = 0
    step: bool = False


DONE: Final = Outcome(Kind.DONE)
DONE_STEP: Final = Outcome(Kind.DONE, step=True)
UNHANDLED: Final = Outcome(Kind.UNHANDLED)
FAULT_UD: Final = Outcome(Kind.FAULT, VECTOR_UD)
FAULT_GP: Final = Outcome(Kind.FAULT, VECTOR_GP, 0)


def page_fault(va: int, error_code: int) -> Outcome:
    """A #PF for the guest."""
    return Outcome(Kind.FAULT, VECTOR_PF, error_code, va)


def retire(state: EmulationState, rip: int, flags: int | None = None) -> Outcome:
    """Move to `rip` with `flags` (None: unchanged); RF falls, a set TF asks for a single-step trap."""
    state.rip = rip
    now = state.rflags if flags is None else flags
    if flags is not None or now & RF:
        state.rflags = now & ~RF
    return DONE_STEP if now & TF else DONE
