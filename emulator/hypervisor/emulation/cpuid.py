"""CPUID as a PV guest sees it: the emulated core's Westmere, under the mask of Xen 4.17's default policy for PV.

The policy (cpu-policy.c, cpuid.c, public/arch-x86/cpufeatureset.h) hides what a PV kernel cannot use: VME, PSE, PSE36, PGE, MTRR,
1 GiB pages, PCID, MONITOR, x2APIC, topology. The core (Unicorn's Westmere) has no XSAVE, AVX, RDRAND, RDTSCP or FSGSBASE; every
bit shown here is one that it executes. Leaves out of range answer zeros.
"""

from __future__ import annotations

from typing import Final

Registers = tuple[int, int, int, int]

_NOTHING: Final[Registers] = (0, 0, 0, 0)
_MAX_BASIC, _MAX_EXTENDED = 0xB, 0x80000008
_FAMILY_MODEL_STEPPING: Final = 0x000206C1  # family 6, model 44 (Westmere), stepping 1
_CLFLUSH_EIGHTBYTES: Final = 8

_VENDOR: Final = b"GenuineIntel"
_BRAND: Final = b"xenconsole virtual CPU".ljust(48, b"\0")
_HYPERVISOR: Final = b"XenVMMXenVMM"
_XEN_BASE, _XEN_LEAVES, _XEN_VERSION = 0x40000000, 5, 4 << 16 | 17
_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: Final = 1
_TSC_MODE_DEFAULT, _TSC_EMULATED = 0, 1
_ADDRESS_WIDTH: Final = 40


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


# FPU DE TSC MSR PAE MCE CX8 APIC SEP MCA CMOV PAT CLFLUSH MMX FXSR SSE SSE2
_LEAF1_EDX: Final = _bits(0, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 19, 23, 24, 25, 26)
# SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 POPCNT AESNI HYPERVISOR
_LEAF1_ECX: Final = _bits(0, 1, 9, 13, 19, 20, 23, 25, 31)
# SYSCALL NX LM (Intel keeps the common bits of leaf 1 out of here)
_EXTENDED1_EDX: Final = _bits(11, 20, 29)
_RDTSCP: Final = 1 << 27
_EXTENDED1_ECX: Final = _bits(0)  # LAHF_LM


def _words(text: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(text[offset : offset + 4], "little") for offset in range(0, len(text), 4))


def _cache(kind: int, level: int, size: int, ways: int) -> Registers:
    """Leaf 4: kind 1 data, 2 instructions, 3 unified; size in bytes; lines of 64 bytes; one thread, one core."""
    line = 64
    return kind | level << 5 | 1 << 8, ways - 1 << 22 | line - 1, size // (ways * line) - 1, 0


_CACHES: Final = (_cache(1, 1, 32 << 10, 8), _cache(2, 1, 32 << 10, 8), _cache(3, 2, 2 << 20, 8))
# Descriptors of the same caches (L1D 0x2c, L1I 0x30, L2 0x7d); the 1 says: ask once.
_LEAF2: Final[Registers] = (1, 0, 0, 0x002C307D)


def cpuid(
    leaf: int, subleaf: int, *, vcpu_id: int = 0, tsc_khz: int = 1_000_000, incarnation: int = 0, rdtscp: bool = False
) -> Registers:
    """EAX, EBX, ECX, EDX. A PV guest's APIC ID is 0 on every vCPU, as Xen has it, so `vcpu_id` is not shown anywhere.

    `tsc_khz`: the guest's TSC; `incarnation`: how often it was restored; `rdtscp`: the core executes RDTSCP.
    """
    if leaf < _XEN_BASE:
        return _basic(leaf, subleaf)
    if leaf < 0x80000000:
        return _xen(leaf - _XEN_BASE, subleaf, tsc_khz, incarnation, rdtscp)
    return _extended(leaf, rdtscp)


def _basic(leaf: int, subleaf: int) -> Registers:
    if leaf == 0:
        ebx, edx, ecx = _words(_VENDOR)
        return _MAX_BASIC, ebx, ecx, edx
    if leaf == 1:
        return _FAMILY_MODEL_STEPPING, _CLFLUSH_EIGHTBYTES << 8 | 1 << 16, _LEAF1_ECX, _LEAF1_EDX
    if leaf == 2:
        return _LEAF2
    if leaf == 4 and subleaf < len(_CACHES):
        return _CACHES[subleaf]
    return _NOTHING  # 3 serial number, 5 MONITOR, 6 power, 7 features, 9 DCA, 0xa vPMU, 0xb topology: hidden or absent


def _xen(index: int, subleaf: int, tsc_khz: int, incarnation: int, rdtscp: bool) -> Registers:
    """Xen's own leaves (cpuid_hypervisor_leaves() in traps.c)."""
    if index == 0:
        ebx, ecx, edx = _words(_HYPERVISOR)
        return _XEN_BASE + _XEN_LEAVES, ebx, ecx, edx
    if index == 1:
        return _XEN_VERSION, 0, 0, 0
    if index == 2:
        return 1, _XEN_BASE, _FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0
    if index == 3:
        if subleaf == 0:
            return _TSC_EMULATED | (4 if rdtscp else 0), _TSC_MODE_DEFAULT, tsc_khz, incarnation
        if subleaf == 1:
            return 0, 0, *_scale(tsc_khz)
        return (tsc_khz, 0, 0, 0) if subleaf == 2 else _NOTHING
    if index == 5 and subleaf == 0:
        return 0, _ADDRESS_WIDTH, 0, 0
    return _NOTHING  # 4 is for HVM


def _scale(khz: int) -> tuple[int, int]:
    """Xen's set_time_scale(): nanoseconds = (ticks << shift) * fraction >> 32; the shift as a 32-bit two's complement."""
    shift, ticks = 0, khz * 1000
    while ticks > 2_000_000_000:
        ticks, shift = ticks >> 1, shift - 1
    while ticks <= 1_000_000_000:
        ticks, shift = ticks << 1, shift + 1
    return (1_000_000_000 << 32) // ticks, shift & 0xFFFFFFFF


def _extended(leaf: int, rdtscp: bool) -> Registers:
    if leaf == 0x80000000:
        return _MAX_EXTENDED, 0, 0, 0
    if leaf == 0x80000001:
        return 0, 0, _EXTENDED1_ECX, _EXTENDED1_EDX | (_RDTSCP if rdtscp else 0)
    if 0x80000002 <= leaf <= 0x80000004:
        start = (leaf - 0x80000002) * 16
        eax, ebx, ecx, edx = _words(_BRAND[start : start + 16])
        return eax, ebx, ecx, edx
    if leaf == 0x80000006:
        return 0, 0, 2048 << 16 | 6 << 12 | 64, 0  # L2: KiB, 8 ways, bytes a line
    if leaf == 0x80000008:
        return 48 << 8 | _ADDRESS_WIDTH, 0, 0, 0
    return _NOTHING
