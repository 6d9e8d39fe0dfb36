"""Model-specific registers of a PV guest: which can be read, which written, and what they hold.

Follows Xen 4.17: `guest_rdmsr()` and `guest_wrmsr()` in arch/x86/msr.c, then `read_msr()` and `write_msr()` in
pv/emul-priv-op.c, for the processor that `cpuid` shows (Intel, no XSAVE, no SPEC_CTRL, no vPMU) and a domain that is not the
hardware domain. What is not listed is a #GP; so are STAR, LSTAR and the SYSENTER registers (a guest has hypercalls for them).
"""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

MSR_IA32_TSC: Final = 0x10
MSR_IA32_PLATFORM_ID: Final = 0x17
MSR_APIC_BASE: Final = 0x1B
MSR_IA32_FEATURE_CONTROL: Final = 0x3A
MSR_IA32_UCODE_REV: Final = 0x8B
MSR_INTEL_PLATFORM_INFO: Final = 0xCE
MSR_IA32_MPERF, MSR_IA32_APERF = 0xE7, 0xE8
MSR_MISC_FEATURES_ENABLES: Final = 0x140
MSR_IA32_MCG_CAP, MSR_IA32_MCG_STATUS, MSR_IA32_MCG_CTL = 0x179, 0x17A, 0x17B
MSR_IA32_PERF_STATUS, MSR_IA32_PERF_CTL = 0x198, 0x199
MSR_IA32_THERM_CONTROL, MSR_IA32_THERM_STATUS = 0x19A, 0x19C
MSR_IA32_MISC_ENABLE: Final = 0x1A0
MSR_IA32_ENERGY_PERF_BIAS: Final = 0x1B0
MSR_IA32_CR_PAT: Final = 0x277
MSR_IA32_PERF_CAPABILITIES: Final = 0x345
MSR_XEN_HYPERCALL_PAGE: Final = 0x40000000
MSR_EFER: Final = 0xC0000080
MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE, MSR_TSC_AUX = 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103
MSR_AMD64_NB_CFG: Final = 0xC001001F

MISC_FEATURES_CPUID_FAULTING: Final = 1
EFER: Final = 0xD01  # NXE LMA LME SCE
XEN_PAT: Final = 0x050100070406
_APIC_BASE, _APIC_BASE_BSP = 0xFEE00800, 0x100
_FEATURE_CONTROL_LOCK: Final = 1
_MCG_CAP: Final = 1 << 24 | 1 << 11 | 1 << 10 | 2  # SER_P, TES_P, CMCI_P, two banks
_MISC_ENABLE: Final = 1 | 1 << 11 | 1 << 12 | 1 << 23  # fast strings; no BTS, no PEBS; xTPR disabled: guest_misc_enable()
_MICROCODE: Final = 1 << 32

_CONSTANT: Final = {
    MSR_IA32_PLATFORM_ID: 0,
    MSR_IA32_FEATURE_CONTROL: _FEATURE_CONTROL_LOCK,
    MSR_IA32_UCODE_REV: _MICROCODE,
    MSR_INTEL_PLATFORM_INFO: 0,  # no CPUID faulting, as the hardware that is shown
    MSR_MISC_FEATURES_ENABLES: 0,
    MSR_IA32_MCG_CAP: _MCG_CAP,
    MSR_IA32_MCG_STATUS: 0,
    MSR_IA32_MCG_CTL: 0,
    MSR_IA32_PERF_STATUS: 0,
    MSR_IA32_PERF_CTL: 0,
    MSR_IA32_THERM_STATUS: 0,
    MSR_IA32_MISC_ENABLE: _MISC_ENABLE,
    MSR_IA32_CR_PAT: XEN_PAT,
    MSR_IA32_PERF_CAPABILITIES: 0,
    MSR_XEN_HYPERCALL_PAGE: 0,
    MSR_EFER: EFER,
    MSR_AMD64_NB_CFG: 0,
}

# P5_MC_ADDR and _TYPE, the performance counters (no vPMU: they read zero and forget what is written), MC banks
_ZERO: Final = (
    range(2), range(0xC1, 0xC9), range(0x186, 0x18A), range(0x280, 0x2A0), range(0x309, 0x30C), range(0x38D, 0x391),
    range(0x400, 0x480),
)  # fmt: skip
_MC_BANKS, _MC_REGISTERS = 2, range(0x400, 0x480)
_IGNORED: Final = frozenset({
    MSR_IA32_MCG_CAP, MSR_IA32_MCG_STATUS, MSR_IA32_MCG_CTL, MSR_IA32_PERF_CTL, MSR_IA32_MPERF, MSR_IA32_APERF,
    MSR_IA32_THERM_CONTROL, MSR_IA32_ENERGY_PERF_BIAS, MSR_IA32_MISC_ENABLE, MSR_AMD64_NB_CFG,
})  # fmt: skip
_IGNORED_RANGES: Final = tuple(span for span in _ZERO if span.start > 1)

# What the processor shown has besides: Xen answers 0 for these as long as the guest has no #GP handler ("faking RDMSR").
_HARDWARE: Final = (
    range(0xE7, 0xE9), range(0xFE, 0xFF), range(0x174, 0x177), range(0x19A, 0x19E), range(0x1D9, 0x1DA), range(0x1DB, 0x1DF),
    range(0x200, 0x214), range(0x250, 0x251), range(0x258, 0x25A), range(0x268, 0x270), range(0x2FF, 0x300),
    range(0xC0000081, 0xC0000085),
)  # fmt: skip


class MsrState(Protocol):
    """What the registers are made of. Bases are linear addresses."""

    @property
    def vcpu_id(self) -> int:
        """0 is the boot processor."""

    fs_base: int
    gs_base: int  # the one in use
    gs_base_user: int  # the user's, while the kernel runs

    @property
    def has_gp_handler(self) -> bool:
        """The guest registered a handler for vector 13 (set_trap_table)."""

    def tsc(self) -> int:
        """The guest's time stamp counter."""

    def write_hypercall_page(self, frame: int) -> bool:
        """Fill the guest's frame `frame` with hypercall stubs; False where it is none of the guest's or not writable."""


@runtime_checkable
class TscAuxState(Protocol):
    """A state whose core executes RDTSCP (and whose CPUID says so) has TSC_AUX besides; any other refuses it."""

    tsc_aux: int  # 32 bits


def read_msr(state: MsrState, index: int) -> int | None:
    """The register's value, or None for a #GP."""
    value = _CONSTANT.get(index)
    if value is not None:
        return value
    if index == MSR_GS_BASE:
        return state.gs_base
    if index == MSR_FS_BASE:
        return state.fs_base
    if index == MSR_SHADOW_GS_BASE:
        return state.gs_base_user
    if index == MSR_IA32_TSC:
        return state.tsc()
    if index == MSR_TSC_AUX:
        return state.tsc_aux if isinstance(state, TscAuxState) else None
    if index == MSR_APIC_BASE:
        return _APIC_BASE | (0 if state.vcpu_id else _APIC_BASE_BSP)
    if index in _MC_REGISTERS and index & 3 == 0 and (index - _MC_REGISTERS.start) >> 2 < _MC_BANKS:
        return (1 << 64) - 1  # MCi_CTL
    if any(index in span for span in _ZERO):
        return 0
    if not state.has_gp_handler and any(index in span for span in _HARDWARE):
        return 0
    return None


def write_msr(state: MsrState, index: int, value: int) -> bool:
    """Write the register; False for a #GP."""
    if index in (MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE):
        if not canonical(value):
            return False
        if index == MSR_FS_BASE:
            state.fs_base = value
        elif index == MSR_GS_BASE:
            state.gs_base = value
        else:
            state.gs_base_user = value
        return True
    if index == MSR_TSC_AUX:
        if not isinstance(state, TscAuxState) or value >> 32:
            return False
        state.tsc_aux = value
        return True
    if index == MSR_EFER:
        return value == EFER  # Linux writes back what it read
    if index in (MSR_IA32_UCODE_REV, MSR_MISC_FEATURES_ENABLES):
        return value == 0
    if index == MSR_XEN_HYPERCALL_PAGE:
        return not value & 0xFFF and state.write_hypercall_page(value >> 12)
    return index in _IGNORED or any(index in span for span in _IGNORED_RANGES)


def canonical(address: int) -> bool:
    """Whether bits 63 to 47 are alike."""
    return (address + (1 << 47)) & ((1 << 64) - 1) < 1 << 48
