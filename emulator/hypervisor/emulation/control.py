"""What a PV guest may put into CR0, CR4 and the debug registers.

Follows Xen 4.17: `write_cr()` in emul-priv-op.c, `pv_fixup_guest_cr4()` in pv/domain.c, `set_debugreg()` in
pv/misc-hypercalls.c. The hypercall set_debugreg and MOV to DR share `DebugRegisters`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EINVAL, ENODEV, EPERM
from typing import Final

CR0_TS: Final = 1 << 3
CR4_TSD, CR4_DE, CR4_PAE, CR4_MCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE = 4, 8, 0x20, 0x40, 0x200, 0x400, 0x40000

_CR4_GUEST: Final = CR4_TSD | CR4_DE  # FSGSBASE and OSXSAVE are not in the CPU's policy
_CR4_VISIBLE: Final = CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT  # Xen's own choice, which the guest may see

DR6_STEP: Final = 1 << 14
DR6_CAUSES: Final = DR6_STEP | 0xF
_DR6_ONES, _DR6_ZERO = 0xFFFF0FF0, 0x1000
_DR7_ONES, _DR7_ZERO, _DR7_GD, _DR7_ACTIVE = 0x400, 0xD800, 0x2000, 0xFF
_DR7_IO: Final = 2
_LOWER_END, _HYPERVISOR_END = 1 << 47, 0xFFFF880000000000


def cr0_acceptable(present: int, value: int) -> bool:
    """A guest may change CR0.TS only."""
    return not (present ^ value) & ~CR0_TS


def fix_cr4(value: int) -> int:
    """The CR4 that a guest sees after it wrote `value`: other bits are dropped, not refused."""
    return value & _CR4_GUEST | _CR4_VISIBLE


@dataclass(slots=True)
class DebugRegisters:
    """DR0–3, DR6 and DR7 of one vCPU; `io` are the enable bits of I/O breakpoints, which the core must not see."""

    addresses: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    dr6: int = _DR6_ONES
    dr7: int = _DR7_ONES
    io: int = 0

    @property
    def active(self) -> bool:
        """Whether a breakpoint is enabled."""
        return self.dr7 & _DR7_ACTIVE != 0

    def record(self, status: int) -> None:
        """What the processor's DR6 says of a #DB is added to what the guest has not cleared yet (do_debug)."""
        self.dr6 = (self.dr6 | status & ~_DR6_ONES) & 0xFFFFFFFF

    def read(self, number: int, *, cr4: int) -> int | None:
        """The register as the guest sees it; None: there is no such register (#UD)."""
        if number in (4, 5):
            if cr4 & CR4_DE:
                return None
            number += 2
        if 0 <= number < 4:
            return self.addresses[number]
        return {6: self.dr6, 7: self.dr7 | self.io}.get(number)

    def write(self, number: int, value: int, *, cr4: int) -> int:
        """0, or -ENODEV (no such register), -EPERM, -EINVAL as Xen's set_debugreg()."""
        if number in (4, 5):
            if cr4 & CR4_DE:
                return -ENODEV
            number += 2
        if 0 <= number < 4:
            if not _breakpoint_address_ok(value):
                return -EPERM
            self.addresses[number] = value
            return 0
        if number not in (6, 7):
            return -ENODEV
        if value >> 32:
            return -EINVAL
        if number == 6:
            self.dr6 = value & ~_DR6_ZERO | _DR6_ONES
            return 0
        return self._write_dr7(value & ~_DR7_ZERO | _DR7_ONES, cr4)

    def _write_dr7(self, value: int, cr4: int) -> int:
        if value & _DR7_GD:
            return -EPERM
        io = 0
        if value & _DR7_ACTIVE:
            for index in range(4):
                if value >> (16 + 4 * index) & 3 == _DR7_IO:
                    if not cr4 & CR4_DE:
                        return -EPERM
                    io |= value & 3 << 2 * index
        self.dr7, self.io = value & ~io, io
        return 0


def _breakpoint_address_ok(address: int) -> bool:
    """Xen's breakpoint_addr_ok(): canonical and outside Xen's own area, so that a guest cannot trap its hypervisor."""
    return address < _LOWER_END or address >= _HYPERVISOR_END
