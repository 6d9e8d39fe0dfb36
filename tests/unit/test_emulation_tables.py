"""CPUID, model-specific registers, control and debug registers: the tables a PV guest sees."""

from __future__ import annotations

from errno import EINVAL, ENODEV, EPERM

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unicorn import x86_const

from emulator.hypervisor.emulation.control import CR4_DE, DebugRegisters, cr0_acceptable, fix_cr4
from emulator.hypervisor.emulation.cpuid import cpuid
from emulator.hypervisor.emulation.msrs import read_msr, write_msr
from tests.unit.emulation_state import bare_core

WESTMERE = 16  # UC_CPU_X86_WESTMERE


class Msrs:
    def __init__(self, vcpu_id: int = 0) -> None:
        self.vcpu_id = vcpu_id
        self.fs_base, self.gs_base, self.gs_base_user = 1, 2, 3
        self.has_gp_handler = True
        self.pages: list[int] = []

    def tsc(self) -> int:
        return 77

    def write_hypercall_page(self, frame: int) -> bool:
        self.pages.append(frame)
        return frame != 9


def text(leaf: int, order: tuple[int, ...] = (0, 1, 2, 3)) -> bytes:
    values = cpuid(leaf, 0)
    return b"".join(values[index].to_bytes(4, "little") for index in order)


def test_names() -> None:
    assert text(0, (1, 3, 2)) == b"GenuineIntel"
    assert text(0x40000000, (1, 2, 3)) == b"XenVMMXenVMM"
    assert (text(0x80000002) + text(0x80000003) + text(0x80000004)).rstrip(b"\0") == b"xenconsole virtual CPU"
    assert cpuid(0x40000001, 0)[0] == 0x40011


def native_cpuid(leaf: int, subleaf: int = 0) -> tuple[int, ...]:
    engine = bare_core()
    engine.ctl_set_cpu_model(WESTMERE)
    engine.mem_map(0x1000, 0x1000)
    engine.mem_write(0x1000, b"\x0f\xa2")
    engine.reg_write(x86_const.UC_X86_REG_RAX, leaf)
    engine.reg_write(x86_const.UC_X86_REG_RCX, subleaf)
    engine.emu_start(0x1000, 0x1002)
    names = ("RAX", "RBX", "RCX", "RDX")
    return tuple(engine.reg_read(getattr(x86_const, f"UC_X86_REG_{name}")) for name in names)


def test_no_feature_is_shown_that_the_core_has_not() -> None:
    hypervisor = 1 << 31
    native, shown = native_cpuid(1), cpuid(1, 0)
    assert shown[0] == native[0] & 0x0FFF0FFF
    assert shown[2] & ~hypervisor & ~native[2] == 0
    assert shown[3] & ~native[3] == 0
    native, shown = native_cpuid(0x80000001), cpuid(0x80000001, 0)
    assert shown[2] & ~native[2] == 0
    assert shown[3] & ~native[3] == 0


def test_features_that_a_pv_guest_cannot_use_are_hidden() -> None:
    vme, pse, mtrr, pge, pse36 = 1, 3, 12, 13, 17
    edx, ecx = cpuid(1, 0)[3], cpuid(1, 0)[2]
    assert not any(edx >> bit & 1 for bit in (vme, pse, mtrr, pge, pse36))
    monitor, vmx, pcid, x2apic, xsave, avx, rdrand = 3, 5, 17, 21, 26, 28, 30
    assert not any(ecx >> bit & 1 for bit in (monitor, vmx, pcid, x2apic, xsave, avx, rdrand))
    assert ecx >> 31 == 1
    assert cpuid(7, 0) == cpuid(0xD, 0) == cpuid(0xB, 0) == cpuid(0x15, 0) == cpuid(0x16, 0) == (0, 0, 0, 0)


def test_every_vcpu_has_apic_id_zero() -> None:
    assert all(cpuid(1, 0, vcpu_id=number)[1] >> 24 == 0 for number in range(8))


def test_the_time_leaf_scales_ticks_to_nanoseconds() -> None:
    for khz in (1_000_000, 1, 2_400_000, 3_999_999, 123_456):
        assert cpuid(0x40000003, 0, tsc_khz=khz)[:3] == (1, 0, khz)
        _, _, fraction, shift = cpuid(0x40000003, 1, tsc_khz=khz)
        shift -= (shift & 0x80000000) << 1
        ticks = khz * 1000  # one second of them
        scaled = (ticks << shift if shift >= 0 else ticks >> -shift) * fraction >> 32
        assert abs(scaled - 1_000_000_000) < 3
    assert cpuid(0x40000003, 2, tsc_khz=5)[0] == 5


def test_caches_agree_with_their_sizes() -> None:
    sizes = []
    for subleaf in range(3):
        _, ebx, ecx, _ = cpuid(4, subleaf)
        sizes.append(((ebx >> 22) + 1) * ((ebx & 0xFFF) + 1) * (ecx + 1))
    assert sizes == [32 << 10, 32 << 10, 2 << 20]
    assert cpuid(4, 3) == (0, 0, 0, 0)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_every_leaf_answers_four_words(leaf: int, subleaf: int) -> None:
    values = cpuid(leaf, subleaf)
    assert len(values) == 4
    assert all(0 <= value < 1 << 32 for value in values)


def test_bases_and_constants() -> None:
    state = Msrs()
    assert [read_msr(state, index) for index in (0xC0000100, 0xC0000101, 0xC0000102, 0x10)] == [1, 2, 3, 77]
    assert read_msr(state, 0xC0000080) == 0xD01
    assert read_msr(state, 0x1B) == 0xFEE00900
    assert read_msr(Msrs(1), 0x1B) == 0xFEE00800
    assert read_msr(state, 0x277) == 0x050100070406
    assert read_msr(state, 0x400) == read_msr(state, 0x404) == (1 << 64) - 1
    assert read_msr(state, 0x408) == 0
    assert read_msr(state, 0x1A0) == 0x801801


@pytest.mark.parametrize(
    "index", [0x48, 0x49, 0x10A, 0x122, 0x800, 0x8FF, 0xC0000081, 0xC0000082, 0xC0000103, 0x4D0, 0x174, 0xFFFFFFFF]
)
def test_the_unknown_is_refused(index: int) -> None:
    assert read_msr(Msrs(), index) is None
    assert not write_msr(Msrs(), index, 0)


def test_a_guest_without_a_fault_handler_reads_zero_where_hardware_has_a_register() -> None:
    state = Msrs()
    state.has_gp_handler = False
    assert read_msr(state, 0xC0000082) == 0
    assert read_msr(state, 0x40000001) is None
    assert read_msr(state, 0xDEADBEEF) is None


def test_writing() -> None:
    state = Msrs()
    assert write_msr(state, 0xC0000100, 0x7FFFFFFFFFFF)
    assert write_msr(state, 0xC0000101, 0xFFFF800000000000)
    assert write_msr(state, 0xC0000102, 5)
    assert (state.fs_base, state.gs_base, state.gs_base_user) == (0x7FFFFFFFFFFF, 0xFFFF800000000000, 5)
    assert not write_msr(state, 0xC0000100, 1 << 47)
    assert write_msr(state, 0xC0000080, 0xD01)
    assert not write_msr(state, 0xC0000080, 0x501)
    assert write_msr(state, 0x8B, 0)
    assert not write_msr(state, 0x8B, 1)
    assert write_msr(state, 0x1A0, 5)
    assert read_msr(state, 0x1A0) == 0x801801
    assert not write_msr(state, 0xCE, 0)
    assert not write_msr(state, 0x277, 0)
    assert not write_msr(state, 0x10, 0)
    assert write_msr(state, 0x40000000, 0x5000)
    assert not write_msr(state, 0x40000000, 0x5001)
    assert not write_msr(state, 0x40000000, 0x9000)
    assert state.pages == [5, 9]


def test_tsc_aux_is_there_where_the_core_has_rdtscp() -> None:
    class WithRdtscp(Msrs):
        tsc_aux = 4

    state = WithRdtscp()
    assert read_msr(state, 0xC0000103) == 4
    assert write_msr(state, 0xC0000103, 0xFFFFFFFF)
    assert state.tsc_aux == 0xFFFFFFFF
    assert not write_msr(state, 0xC0000103, 1 << 32)
    assert cpuid(0x80000001, 0, rdtscp=True)[3] >> 27 & 1
    assert cpuid(0x40000003, 0, rdtscp=True)[0] == 5


def test_control_registers() -> None:
    assert cr0_acceptable(0x8005003B, 0x80050033)
    assert not cr0_acceptable(0x8005003B, 0x8004003B)
    assert fix_cr4(0) == 0x660
    assert fix_cr4((1 << 64) - 1) == 0x66C


def test_debug_registers_refuse_what_would_reach_the_hypervisor() -> None:
    dr = DebugRegisters()
    assert dr.write(0, 0x7FFFFFFFFFFF, cr4=0) == 0
    assert dr.write(1, 0xFFFF800000000000, cr4=0) == -EPERM
    assert dr.write(1, 1 << 47, cr4=0) == -EPERM
    assert dr.write(1, 0xFFFF880000000000, cr4=0) == 0
    assert dr.read(1, cr4=0) == 0xFFFF880000000000
    assert dr.write(7, 0x2000, cr4=0) == -EPERM
    assert dr.write(7, 1 << 32, cr4=0) == -EINVAL
    assert dr.write(6, 1 << 32, cr4=0) == -EINVAL
    assert dr.write(8, 0, cr4=0) == -ENODEV
    assert dr.write(5, 0, cr4=CR4_DE) == -ENODEV
    assert dr.read(4, cr4=CR4_DE) is None


def test_debug_registers_keep_reserved_bits() -> None:
    dr = DebugRegisters()
    assert dr.write(6, 0, cr4=0) == 0
    assert dr.read(4, cr4=0) == 0xFFFF0FF0
    assert dr.write(6, 0xFFFFFFFF, cr4=0) == 0
    assert dr.read(6, cr4=0) == 0xFFFFEFFF
    assert dr.write(7, 0xD801, cr4=0) == 0
    assert dr.read(5, cr4=0) == 0x401


def test_io_breakpoints_need_cr4_de_and_stay_out_of_the_core() -> None:
    dr = DebugRegisters()
    value = 0x400 | 2 << 16 | 3 | 1 << 2  # breakpoint 0 on I/O, breakpoint 1 on execution
    assert dr.write(7, value, cr4=0) == -EPERM
    assert dr.write(7, value, cr4=CR4_DE) == 0
    assert (dr.dr7, dr.io) == (value & ~3, 3)
    assert dr.read(7, cr4=CR4_DE) == value
    assert dr.write(7, 0, cr4=CR4_DE) == 0
    assert dr.io == 0
