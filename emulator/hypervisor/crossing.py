"""What a vCPU shares with the machine code that crosses between its two modes (`emulator.cpu.crossing`), and what it teaches it.

The words are the only copy of this state. Two things are taught by doing them once in Python, which checks everything, and forgotten as soon
as anything they follow from changes: the kernel's entry for system calls, and the user's code and stack segments.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from emulator.abi.xen import FLAT_KERNEL_CS, FLAT_KERNEL_SS, HYPERCALL_NUMBER, VMASST_TYPE_architectural_iopl
from emulator.cpu import crossing, native
from emulator.cpu.crossing import CR3_KERNEL, CR3_USER, GS_OTHER, INFO, IO_KERNEL, IO_USER, KERNEL_IMAGE, KERNEL_MODE, KERNEL_SP, USER_IMAGE
from emulator.hypervisor.clock import HYPERCALL_COST_NS, TRAP_COST_NS

if TYPE_CHECKING:
    from emulator.cpu.core import Core
    from emulator.hypervisor.domain import Domain

_IRET, _MMU_UPDATE = HYPERCALL_NUMBER["iret"], HYPERCALL_NUMBER["mmu_update"]


def share_frames(domain: Domain) -> None:
    """Native code may write entries of L1 tables, and keeps the counts of the frames that they name."""
    control, frames = domain.core.control, domain.frames
    control[native.FRAMES] = frames.frames
    for word, column in ((native.FRAME_TYPES, frames.types), (native.FRAME_OWNERS, frames.owners), (native.FRAME_TALLY, frames.tally),
                         (native.FRAME_CODE, frames.code)):  # fmt: skip
        control[word] = column.ctypes.data


def allow(domain: Domain) -> None:
    """Native code may cross between the modes unless somebody watches, iret has the IOPL, RF or an NMI's mask to look at, or there is code to
    forget at every trap."""
    control, vcpu = domain.core.control, domain.current
    watched, has_iopl = domain.trace is not None, domain.vm_assist >> VMASST_TYPE_architectural_iopl & 1
    control[native.CROSSING] = not (watched or has_iopl or vcpu.nmi_masked or vcpu.debug.active or domain.foreign_writes.count)
    control[native.LEAVES] = not (domain.frames.leaving or domain.frames.unfinished)
    control[native.SYSCALL_COST] = TRAP_COST_NS << native.COUNT_SHIFT
    control[native.IRET_COST] = HYPERCALL_COST_NS << native.COUNT_SHIFT


def collect(domain: Domain) -> None:
    """What native code did since the last time, into the domain's statistics."""
    control, stats = domain.core.control, domain.stats
    stats.system_calls += control[native.SYSTEM_CALLS]
    stats.hypercalls += control[native.IRETS] + control[native.UPDATES]
    stats.by_number[_IRET] += control[native.IRETS]
    stats.by_number[_MMU_UPDATE] += control[native.UPDATES]
    stats.mmu_entries += control[native.UPDATES]
    control[native.SYSTEM_CALLS] = control[native.IRETS] = control[native.UPDATES] = 0


class Crossing:
    """The part of a vCPU that both know."""

    def __init__(self, core: Core, info: int) -> None:
        self.core = core
        self._owner = (ctypes.c_uint64 * crossing.VCPU_WORDS)()
        self.words = memoryview(self._owner).cast("B").cast("Q")
        core.load_code64(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        self._put_image(KERNEL_IMAGE)
        self.info = info
        self.kernel_mode = True

    def _put_image(self, at: int) -> None:
        self.words[at : at + 6] = memoryview(self.core.code_image).cast("Q")

    def take_core(self) -> None:
        """This vCPU is the one that the core runs."""
        self.core.control[native.VCPU] = ctypes.addressof(self._owner)

    def teach_system_call(self, address: int, masks: bool) -> None:
        """64-bit system calls enter the kernel at `address`."""
        self.words[crossing.SYSCALL], self.words[crossing.SYSCALL_MASKS] = address, masks

    def teach_user_segments(self, cs: int, ss: int) -> None:
        """The processor has just loaded these 64-bit segments out of the GDT."""
        if not (cs | ss) & 4:
            self.words[crossing.USER_CS], self.words[crossing.USER_SS] = cs, ss
            self._put_image(USER_IMAGE)

    def forget_taught(self) -> None:
        self.words[crossing.SYSCALL] = self.words[crossing.USER_CS] = 0

    @property
    def info(self) -> int:
        """Byte offset of its vcpu_info in the machine memory."""
        return self.words[INFO]

    @info.setter
    def info(self, value: int) -> None:
        self.words[INFO] = value

    @property
    def kernel_mode(self) -> bool:
        return self.words[KERNEL_MODE] != 0

    @kernel_mode.setter
    def kernel_mode(self, value: bool) -> None:
        self.words[KERNEL_MODE] = value

    @property
    def kernel_sp(self) -> int:
        return self.words[KERNEL_SP]

    @kernel_sp.setter
    def kernel_sp(self, value: int) -> None:
        self.words[KERNEL_SP] = value

    @property
    def cr3_kernel(self) -> int:
        """Machine frame of the kernel's L4 table, 0: none."""
        return self.words[CR3_KERNEL]

    @cr3_kernel.setter
    def cr3_kernel(self, value: int) -> None:
        self.words[CR3_KERNEL] = value

    @property
    def cr3_user(self) -> int:
        """Machine frame of the user's L4 table, 0: none."""
        return self.words[CR3_USER]

    @cr3_user.setter
    def cr3_user(self, value: int) -> None:
        self.words[CR3_USER] = value

    @property
    def gs_base_other(self) -> int:
        """GS base of the mode that is not running."""
        return self.words[GS_OTHER]

    @gs_base_other.setter
    def gs_base_other(self, value: int) -> None:
        self.words[GS_OTHER] = value

    @property
    def io_rights(self) -> tuple[int, int]:
        """Whether IN and OUT answer at once in user and in kernel mode."""
        return self.words[IO_USER], self.words[IO_KERNEL]

    @io_rights.setter
    def io_rights(self, value: tuple[int, int]) -> None:
        self.words[IO_USER], self.words[IO_KERNEL] = value
