"""The few native callbacks that Unicorn needs: commented machine code, written once into an executable page.

They run between two guest instructions, without the GIL, and know one thing: the core's control block (`Control`), whose
address Unicorn hands them as `user_data`. A callback either answers at once (budget, clock, port reads of a permitted guest)
or turns the instruction into an exception that leaves the translated code, so that Python sees every trap in one place, the
interrupt hook, outside of any translation block.

Calling convention: System V x86-64. `rdi` is the uc_engine in all of them.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import TYPE_CHECKING

from emulator.cpu import budget, crossing, leafupdate, tlb
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.cpu.libunicorn import LibUnicorn

(COUNT, LIMIT, ENV, RAISE, TSC_BASE, TSC_COST, IO_ALLOWED, TSC_AUX, CROSSING, VCPU, MEMORY, CPU, READ_EFLAGS, FLUSH_INDICES, SYSCALL_COST, IRET_COST,
 SYSTEM_CALLS, IRETS, INLINE, SPARE, TURN, LEAVES, UPDATE, UPDATES, FRAMES, FRAME_TYPES, FRAME_OWNERS, FRAME_TALLY,
 FRAME_CODE) = range(29)  # fmt: skip
"""Indices of the control block's 64-bit words.

COUNT: bytes of the blocks entered since the domain's start, plus the virtual cost of traps: the deterministic clock.
LIMIT: a block is refused when COUNT >= LIMIT; any thread may lower it at any moment.
ENV: address of CPUX86State. RAISE: address of raise_exception.
TSC_BASE: ns added to COUNT >> COUNT_SHIFT to give the guest's TSC at 1 GHz. TSC_COST: charge for one read of it.
IO_ALLOWED: 1 when IN and OUT answer at once (all ones, and nothing), 0 when they raise #GP.
CROSSING: 1 when `crossing` may work. VCPU: address of the running vCPU's words there. MEMORY: address of machine frame 0. CPU: address of CPUState.
READ_EFLAGS, FLUSH_INDICES: addresses of helper_read_eflags and tlb_flush_by_mmuidx. SYSCALL_COST, IRET_COST: charge for one. SYSTEM_CALLS,
IRETS: how many were done.
INLINE: 1 when the budget may be put into the blocks (see `budget`).
SPARE: CR3 that the TLB of the mode that is not running follows. TURN, UPDATE: addresses of `tlb.TURN` and `leafupdate.UPDATE`.
LEAVES: 1 when `leafupdate` may work. UPDATES: how many entries it wrote. FRAMES: how many machine frames there are; FRAME_*: addresses of what
`hypervisor.memory.frames.FrameTable` keeps of them."""

CONTROL_WORDS = 29
COUNT_SHIFT = 3
"""Eight counts (bytes of guest code) a nanosecond: faster than any measured core, so that virtual time lags the real
clock within a slice and is brought level after it, never back."""

VECTOR_SYSCALL, VECTOR_SYSENTER, VECTOR_CPUID, VECTOR_BUDGET = 0x100, 0x101, 0x102, 0x103
"""Exception numbers of our own, above the architecture's 256, by which instructions (and a spent budget) reach the interrupt hook."""

# u32 in(uc, u32 port, int size, control): all ones for a guest that may, #GP for one that may not.
IN = bytes.fromhex(
    "83793000"  # cmp dword [rcx+IO_ALLOWED], 0
    "7406"  # je refuse
    "b8ffffffff"  # mov eax, -1
    "c3"  # ret
    "488b7910"  # refuse: mov rdi, [rcx+ENV]
    "be0d000000"  # mov esi, 13     #GP, error code 0
    "ff6118"  # jmp [rcx+RAISE]     does not return
)

# void out(uc, u32 port, int size, u32 value, control): the fifth argument is in r8.
OUT = bytes.fromhex(
    "4183783000"  # cmp dword [r8+IO_ALLOWED], 0
    "7401"  # je refuse
    "c3"  # ret
    "498b7810"  # refuse: mov rdi, [r8+ENV]
    "be0d000000"  # mov esi, 13
    "41ff6018"  # jmp [r8+RAISE]
)

# int rdtsc(uc, control): EDX:EAX = TSC_BASE + (COUNT >> COUNT_SHIFT), and charge the read.
_READ_TSC = (
    "488b4628"  # mov rax, [rsi+TSC_COST]
    "480306"  # add rax, [rsi+COUNT]
    "488906"  # mov [rsi+COUNT], rax
    f"48c1e8{COUNT_SHIFT:02x}"  # shr rax, COUNT_SHIFT
    "48034620"  # add rax, [rsi+TSC_BASE]
    "488b4e10"  # mov rcx, [rsi+ENV]
    "89c2"  # mov edx, eax          zero-extends: RAX = low half
    "488911"  # mov [rcx+RAX], rdx
    "48c1e820"  # shr rax, 32
    "48894110"  # mov [rcx+RDX*8], rax  regs[2]
)
_RETURN_TRUE = "b801000000c3"  # mov eax, 1; ret    the instruction is done
RDTSC = bytes.fromhex(_READ_TSC + _RETURN_TRUE)
RDTSCP = bytes.fromhex(
    _READ_TSC + "488b4638"  # mov rax, [rsi+TSC_AUX]
    "48894108"  # mov [rcx+RCX*8], rax  regs[1]
    + _RETURN_TRUE
)


def _raiser(vector: int) -> bytes:
    """void (or int) hook(uc, control): leave the translated code with exception `vector`."""
    return bytes.fromhex(
        "4889f1"  # mov rcx, rsi
        "488b7910"  # mov rdi, [rcx+ENV]
        f"be{vector.to_bytes(4, 'little').hex()}"  # mov esi, vector
        "ff6118"  # jmp [rcx+RAISE]
    )


SYSENTER, CPUID = _raiser(VECTOR_SYSENTER), _raiser(VECTOR_CPUID)

# void forget(uc, u64 *addresses, u64 count, tb_invalidate_phys_range): for each of the pages; the count is not zero.
FORGET = bytes.fromhex(
    "53"  # push rbx
    "55"  # push rbp
    "4154"  # push r12
    "4155"  # push r13
    "4883ec08"  # sub rsp, 8        calls are made with the stack aligned to 16
    "4889fb"  # mov rbx, rdi
    "4889f5"  # mov rbp, rsi
    "4989d4"  # mov r12, rdx
    "4989cd"  # mov r13, rcx
    "4889df"  # again: mov rdi, rbx
    "488b7500"  # mov rsi, [rbp]
    "488d9600100000"  # lea rdx, [rsi+4096]
    "41ffd5"  # call r13
    "4883c508"  # add rbp, 8
    "49ffcc"  # dec r12
    "75e6"  # jne again
    "4883c408"  # add rsp, 8
    "415d"  # pop r13
    "415c"  # pop r12
    "5d"  # pop rbp
    "5b"  # pop rbx
    "c3"  # ret
)

STUBS: dict[str, bytes] = {"block": budget.BLOCK, "in": IN, "out": OUT, "rdtsc": RDTSC, "rdtscp": RDTSCP,
                           "syscall": crossing.CROSSING, "turn": tlb.TURN, "update": leafupdate.UPDATE,
                           "sysenter": SYSENTER, "cpuid": CPUID, "forget": FORGET}  # fmt: skip


def control_block(memory: int, lib: LibUnicorn) -> ctypes.Array[ctypes.c_uint64]:
    """A control block with no budget, and its addresses but those of the processor's state. `memory`: the address of machine frame 0."""
    words = (ctypes.c_uint64 * CONTROL_WORDS)()
    words[MEMORY] = memory
    words[RAISE], words[READ_EFLAGS], words[FLUSH_INDICES] = lib.raise_exception_address, lib.read_eflags_address, lib.flush_indices_address
    words[TURN], words[UPDATE] = native_code().address["turn"], native_code().address["update"]
    words[TSC_COST] = 100 << COUNT_SHIFT
    return words


class NativeCode:
    """All stubs in one page that is written first and executable afterwards, never both."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.address: dict[str, int] = {}
        offset = 0
        for name, code in STUBS.items():
            self._page[offset : offset + len(code)] = code
            self.address[name] = base + offset
            offset += (len(code) + 15) & ~15
        if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC):
            raise UserError("no executable memory", where="processor", why="the system forbids mprotect(PROT_EXEC)",
                            fix="allow it for this process (SELinux: execmem)")  # fmt: skip


@cache
def native_code() -> NativeCode:
    return NativeCode()
