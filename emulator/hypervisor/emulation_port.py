"""The vCPU as the instruction emulation sees it (`emulation.EmulationState` and the MSRs' state)."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, cast

from emulator.abi.xen import PRESENT, RW, USER, VI_CR2, VMASST_TYPE_architectural_iopl
from emulator.cpu.core import CS, DS, ES, FS, GS, MASK64, SS
from emulator.hypervisor.emulation.control import CR4_TSD, cr0_acceptable, fix_cr4
from emulator.hypervisor.emulation.cpuid import cpuid
from emulator.hypervisor.emulation.msrs import read_msr, write_msr
from emulator.hypervisor.emulation.state import GuestPageFault
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_SEGMENTS = {"es": ES, "cs": CS, "ss": SS, "ds": DS, "fs": FS, "gs": GS}
_CR0_SHOWN = 0x80050033
TSC_KHZ = 1_000_000


class EmulationPort:
    """One vCPU's registers and rights, for the length of one emulated instruction."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._core = vcpu.core
        self._guest = vcpu.domain.guest

    @property
    def regs(self) -> MutableSequence[int]:
        return cast("MutableSequence[int]", self._core.regs)  # as much of one as is needed

    # --- registers ------------------------------------------------------------------------------------------------------

    @property
    def rip(self) -> int:
        return self._core.rip

    @rip.setter
    def rip(self, value: int) -> None:
        self._core.rip = value & MASK64

    @property
    def rflags(self) -> int:
        return self._core.rflags

    @rflags.setter
    def rflags(self, value: int) -> None:
        self._core.rflags = value

    @property
    def in_kernel(self) -> bool:
        return self._vcpu.kernel_mode

    @property
    def code_size(self) -> int:
        return self._core.code_size

    @property
    def iopl(self) -> int:
        return self._vcpu.iopl

    @property
    def architectural_iopl(self) -> bool:
        return bool(self._vcpu.domain.vm_assist >> VMASST_TYPE_architectural_iopl & 1)

    def io_permitted(self, port: int, size: int) -> bool:
        """The bitmap is the guest's own memory: a set bit, or one that cannot be read, forbids."""
        vcpu = self._vcpu
        if not vcpu.io_bitmap or port + size > vcpu.io_ports:
            return False
        try:
            bits = int.from_bytes(self._guest.read(vcpu.io_bitmap + (port >> 3), 2), "little")
        except Refusal:
            return False
        return not bits >> (port & 7) & ((1 << size) - 1)

    def segment_base(self, name: str) -> int:
        return self._core.segment(_SEGMENTS[name])[1]

    # --- memory ---------------------------------------------------------------------------------------------------------

    def fetch(self, va: int, count: int) -> bytes:
        """Code may stop at the end of a page that the next one does not follow."""
        parts = b""
        while len(parts) < count:
            at = va + len(parts) & MASK64
            entry = self._entry(at)
            if entry & (PRESENT | USER) != PRESENT | USER:
                break
            take = min(4096 - (at & 0xFFF), count - len(parts))
            try:
                parts += self._guest.read(at, take)
            except Refusal:
                break
        return parts

    def read(self, va: int, count: int) -> bytes:
        try:
            return self._guest.read(va, count)
        except Refusal:
            raise self._fault(va, count, write=False) from None

    def write(self, va: int, data: bytes) -> None:
        try:
            self._guest.write(va, data)
        except Refusal:
            raise self._fault(va, len(data), write=True) from None

    def _entry(self, va: int) -> int:
        index = self._guest.entry_index(va)
        return self._vcpu.domain.memory.words[index] if index >= 0 else 0

    def _fault(self, va: int, count: int, write: bool) -> GuestPageFault:
        """The #PF of the first byte that cannot be reached."""
        for at in (va, (va + count - 1) & ~0xFFF & MASK64):
            entry = self._entry(at)
            if not entry & PRESENT or (write and not entry & RW):
                return GuestPageFault(at, (1 if entry & PRESENT else 0) | (2 if write else 0) | (0 if self.in_kernel else 4))
        return GuestPageFault(va, 2 if write else 0)

    # --- control, debug, model-specific ------------------------------------------------------------------------------

    def read_cr(self, number: int) -> int:
        vcpu = self._vcpu
        if number == 0:
            return _CR0_SHOWN | (8 if self._core.task_switched else 0)
        if number == 2:
            return vcpu.domain.memory.words[(vcpu.info + VI_CR2) >> 3]
        if number == 3:
            return vcpu.cr3_kernel << 12
        return fix_cr4(vcpu.cr4)

    def write_cr(self, number: int, value: int) -> bool:
        vcpu = self._vcpu
        if number == 0:
            if not cr0_acceptable(self.read_cr(0), value):
                return False
            self._core.task_switched = bool(value & 8)
        elif number == 2:
            vcpu.domain.memory.words[(vcpu.info + VI_CR2) >> 3] = value
        elif number == 3:
            try:
                vcpu.domain.new_baseptr(vcpu, value >> 12)
            except Refusal:
                return False
        else:
            vcpu.cr4 = fix_cr4(value)
            self._core.forbid_tsc(bool(vcpu.cr4 & CR4_TSD))
        return True

    def read_dr(self, number: int) -> int | None:
        return self._vcpu.debug.read(number, cr4=self._vcpu.cr4)

    def write_dr(self, number: int, value: int) -> bool:
        return self._vcpu.debug.write(number, value, cr4=self._vcpu.cr4) == 0 and self._vcpu.domain.arm_breakpoints(self._vcpu)

    def read_msr(self, index: int) -> int | None:
        return read_msr(self, index)

    def write_msr(self, index: int, value: int) -> bool:
        return write_msr(self, index, value)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return cpuid(leaf, subleaf, vcpu_id=self._vcpu.number, tsc_khz=TSC_KHZ, rdtscp=False)

    @property
    def vcpu_id(self) -> int:
        return self._vcpu.number

    @property
    def fs_base(self) -> int:
        return self._core.segment(FS)[1]

    @fs_base.setter
    def fs_base(self, value: int) -> None:
        self._core.set_segment_base(FS, value)

    @property
    def gs_base(self) -> int:
        return self._core.segment(GS)[1]

    @gs_base.setter
    def gs_base(self, value: int) -> None:
        self._core.set_segment_base(GS, value)

    @property
    def gs_base_user(self) -> int:
        return self._vcpu.gs_base_other

    @gs_base_user.setter
    def gs_base_user(self, value: int) -> None:
        self._vcpu.gs_base_other = value

    @property
    def has_gp_handler(self) -> bool:
        return 13 in self._vcpu.handlers.traps

    def tsc(self) -> int:
        return self._vcpu.domain.clock.now()

    def write_hypercall_page(self, frame: int) -> bool:
        try:
            self._vcpu.domain.write_hypercall_page(frame)
        except Refusal:
            return False
        return True
