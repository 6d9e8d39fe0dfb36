"""vcpu_op beyond timers: a vCPU is given its first context, comes up and goes down; NMIs; run state and time in the guest's memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi.errno import EEXIST, EFAULT, EINVAL, ENOENT
from emulator.cpu import fpu
from emulator.hypervisor.context import CONTEXT_BYTES, VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_ONLINE, get_info
from tests.unit.cores import DATA as BARE_DATA
from tests.unit.cores import Bare
from tests.unit.domains import CODE, DATA, FREE_SLOT, SPARE, STACK, Tiny, va

INITIALISE, UP, DOWN, IS_UP, RUNSTATE, RUNSTATE_AREA, PERIODIC, STOP_PERIODIC, INFO, NMI, PHYSID, TIME_AREA = 0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13
DATA_SEGMENTS_AT = 520 + 21 * 8
FLAGS_AT, RAX_AT, RIP_AT, CS_AT, RSP_AT = 512, 520 + 10 * 8, 520 + 16 * 8, 520 + 17 * 8, 520 + 19 * 8
SPIN, FXSAVE_RAX = "ebfe", "480fae00"


@pytest.fixture
def guest() -> Iterator[Tiny]:
    made = Tiny(vcpus=2)
    yield made
    made.domain.close()


def first_context(guest: Tiny, flags: int, image: bytes = bytes(512), code: str = SPIN) -> int:
    """A context like vCPU 0's, but for these; its address."""
    data = bytearray(get_info(guest.domain.vcpus[0]))
    assert len(data) == CONTEXT_BYTES
    data[:512] = image
    struct.pack_into("<Q", data, FLAGS_AT, flags)
    struct.pack_into("<Q", data, RAX_AT, va(SPARE))
    struct.pack_into("<Q", data, RIP_AT, guest.put(CODE, code, 0x800))
    struct.pack_into("<Q", data, RSP_AT, va(STACK, 2048))
    for page in range(0, len(data), 4096):
        guest.put(DATA + page // 4096, bytes(data[page : page + 4096]))
    return va(DATA)


def test_a_vcpu_begins_with_the_fpu_state_it_was_given(guest: Tiny) -> None:
    image = bytearray(512)
    struct.pack_into("<HHB", image, 0, 0x27F, 5 << 11, 0b1110_0000)  # double precision, top of stack 5, three registers in use
    struct.pack_into("<I", image, 24, 0x1FA0)
    for number in range(3):
        image[32 + 16 * number : 42 + 16 * number] = struct.pack("<QH", (1 << 63) | 0x1111 * (number + 1), 0x3FFF + number)
    for number in range(16):
        image[160 + 16 * number : 176 + 16 * number] = bytes(range(number, number + 16))
    at = first_context(guest, VGCF_ONLINE | VGCF_IN_KERNEL | VGCF_I387_VALID, bytes(image), FXSAVE_RAX + SPIN)
    assert guest.call("vcpu_op", INITIALISE, 1, at) == 0
    assert guest.call("vcpu_op", IS_UP, 1) == 1
    guest.run(SPIN, budget=10_000_000)
    seen = guest.get(SPARE, 512)
    assert seen[:5] == image[:5]
    assert seen[24:28] == image[24:28]
    assert seen[32 : 32 + 3 * 16] == image[32 : 32 + 3 * 16]
    assert seen[160 : 160 + 256] == image[160 : 160 + 256]


def test_a_vcpu_that_cannot_begin_crashes_its_domain_and_nothing_else(guest: Tiny) -> None:
    at = first_context(guest, VGCF_ONLINE | VGCF_IN_KERNEL)
    guest.put(DATA, struct.pack("<H", 0x1233), CS_AT)  # names no segment, and there is no handler
    assert guest.call("vcpu_op", INITIALISE, 1, at) == 0
    guest.run(SPIN, budget=10_000_000)
    assert guest.domain.ended == "crash"
    assert "#GP" in guest.domain.crash_reason


def test_a_data_segment_that_cannot_be_loaded_begins_in_the_failsafe_callback(guest: Tiny) -> None:
    assert guest.call("set_callbacks", va(CODE), va(CODE, 0x900), va(CODE)) == 0
    guest.put(CODE, "ebfe", 0x900)
    at = first_context(guest, VGCF_ONLINE | VGCF_IN_KERNEL)
    guest.put(DATA, struct.pack("<4Q", 0xE02B, 0x1230, 0, 0x1238), DATA_SEGMENTS_AT)  # es ds fs gs
    assert guest.call("vcpu_op", INITIALISE, 1, at) == 0
    guest.run(SPIN, budget=10_000_000)
    guest.domain.rotation.switch(guest.domain.vcpus[1])
    assert guest.domain.core.rip == va(CODE, 0x900)
    frame = struct.unpack("<11Q", guest.stack(88))
    assert frame[2:6] == (0x1230, 0xE02B, 0, 0x1238)  # ds es fs gs
    assert frame[6:8] == (va(CODE, 0x800), 0xE030 | 1 << 32)
    assert frame[9:] == (va(STACK, 2048), 0xE02B)


def test_without_the_flag_the_image_is_not_looked_at(guest: Tiny) -> None:
    at = first_context(guest, VGCF_ONLINE | VGCF_IN_KERNEL, b"\xff" * 512, FXSAVE_RAX + SPIN)
    assert guest.call("vcpu_op", INITIALISE, 1, at) == 0
    guest.run(SPIN, budget=10_000_000)
    seen = guest.get(SPARE, 512)
    assert struct.unpack_from("<HHB", seen) == (0x37F, 0, 0)
    assert seen[160 : 160 + 256] == bytes(256)


def test_a_vcpu_is_initialised_once_and_comes_and_goes(guest: Tiny) -> None:
    at = first_context(guest, VGCF_IN_KERNEL)
    assert guest.call("vcpu_op", UP, 1) == -EINVAL
    assert guest.call("vcpu_op", INITIALISE, 1, at) == 0
    assert guest.call("vcpu_op", INITIALISE, 1, at) == -EEXIST
    assert guest.call("vcpu_op", INITIALISE, 2, at) == -ENOENT
    assert guest.call("vcpu_op", IS_UP, 1) == 0
    for _ in range(2):
        assert guest.call("vcpu_op", UP, 1) == 0
        assert guest.call("vcpu_op", IS_UP, 1) == 1
    assert guest.call("vcpu_op", DOWN, 1) == 0
    assert guest.call("vcpu_op", IS_UP, 1) == 0
    assert guest.call("vcpu_op", IS_UP, 0) == 1
    guest.call("vcpu_op", DOWN, 0)
    assert guest.domain.ended == "poweroff", "the last one that goes down"


def test_an_nmi_comes_masked_or_not_once(guest: Tiny) -> None:
    vcpu = guest.domain.vcpus[0]
    assert guest.call_with("callback_op", 0, "HHxxxxQ", 4, 0, guest.put(CODE, SPIN, 0x400)) == 0
    vcpu.upcall_masked = True
    assert guest.call("vcpu_op", NMI, 0, va(DATA)) == -EINVAL
    assert guest.call("vcpu_op", NMI, 0, 0) == 0
    at = guest.put(CODE, SPIN)
    guest.domain.core.rip = at
    guest.domain.slice(100_000)
    assert guest.domain.core.rip == va(CODE, 0x400)
    _rcx, _r11, rip, cs = struct.unpack("<4Q", guest.stack(32))
    assert rip == at
    assert cs >> 32 & 0xFF == 1, "the saved mask"
    assert vcpu.upcall_masked
    vcpu.nmi_pending = True
    guest.domain.core.rip = at
    guest.domain.rotation.fresh = True
    guest.domain.slice(100_000)
    assert guest.domain.core.rip == at and vcpu.nmi_pending, "none within another: no iret came yet"
    frame = struct.pack("<9Q", 0, 0, 0, 0, at, 0xE030, 0x202, va(STACK, 4096), 0xE02B)
    guest.domain.core.regs[4] = guest.put(STACK, frame, 2048)
    guest.call("iret")
    guest.domain.slice(100_000)
    assert guest.domain.core.rip == va(CODE, 0x400) and not vcpu.nmi_pending, "iret lets the next one in"


def test_the_nmi_handler_is_an_entry_of_the_trap_table(guest: Tiny) -> None:
    """pv/callback.c: trap_ctxt[TRAP_nmi], whoever sets it; a cleared table clears it, too."""
    traps = guest.domain.vcpus[0].handlers.traps
    guest.traps((2, 4, va(CODE, 0x600)))
    assert (traps[2].address, traps[2].masks) == (va(CODE, 0x600), True)
    assert guest.call("nmi_op", 0, guest.put(DATA, struct.pack("<QQ", va(CODE, 0x700), 0))) == 0
    assert traps[2].address == va(CODE, 0x700)
    assert guest.call("nmi_op", 1, 0) == 0 and 2 not in traps
    guest.traps((2, 4, va(CODE, 0x600)))
    assert guest.call("set_trap_table", 0) == 0 and not traps


def test_the_first_reason_to_shut_down_counts(guest: Tiny) -> None:
    """SCHEDOP_shutdown_code sets it without shutting down (domain_shutdown)."""
    assert guest.call("sched_op", 5, va(300)) == -EFAULT
    assert guest.call("sched_op", 5, guest.put(DATA, struct.pack("<I", 1))) == 0
    assert guest.call("sched_op", 5, guest.put(DATA, struct.pack("<I", 0))) == 0
    ended = guest.domain.ended
    assert ended == ""
    guest.call("sched_op", 2, guest.put(DATA, struct.pack("<I", 3)))
    assert guest.domain.ended == "reboot"


def test_an_nmi_without_a_handler_is_lost_and_wakes_who_sleeps(guest: Tiny) -> None:
    vcpu = guest.domain.vcpus[0]
    assert guest.call("sched_op", 1) == 0
    assert vcpu.blocked
    vcpu.nmi_pending = True
    vcpu.wake()
    guest.domain.slice(100_000)
    assert not vcpu.nmi_pending and not vcpu.blocked


def test_run_state_is_told_by_call_and_in_the_guests_memory(guest: Tiny) -> None:
    assert guest.call_with("vcpu_op", RUNSTATE_AREA, "", offset=0) != 0
    area = struct.pack("<Q", va(SPARE, 64))
    assert guest.call("vcpu_op", RUNSTATE_AREA, 0, guest.put(DATA, area)) == 0
    state, _pad, since, *times = struct.unpack("<iiQ4Q", guest.get(SPARE, 48, 64))
    assert state == 0
    assert since <= guest.domain.clock.now()
    assert guest.call("vcpu_op", RUNSTATE, 0, va(DATA, 512)) == 0
    state, _pad, _since, *later = struct.unpack("<iiQ4Q", guest.get(DATA, 48, 512))
    assert state == 0
    assert later[0] >= times[0]
    assert guest.call("vcpu_op", RUNSTATE, 1, va(DATA, 512)) == 0
    assert struct.unpack_from("<i", guest.get(DATA, 4, 512))[0] == 3, "offline"


def test_the_time_area_has_the_clocks_parameters(guest: Tiny) -> None:
    assert guest.call("vcpu_op", TIME_AREA, 0, guest.put(DATA, struct.pack("<Q", va(SPARE, 256)))) == 0
    version, _pad, stamp, system, multiplier, shift, flags = struct.unpack_from("<IIQQIbB", guest.get(SPARE, 32, 256))
    assert (version & 1, stamp, system, multiplier, shift, flags) == (0, 0, 0, 0x80000000, 1, 1)


def test_a_periodic_timer_of_another_vcpu_and_what_no_guest_may_know(guest: Tiny) -> None:
    assert guest.call("vcpu_op", PERIODIC, 1, guest.put(DATA, struct.pack("<Q", 5_000_000))) == 0
    assert guest.domain.vcpus[1].timers.period == 5_000_000
    assert guest.call("vcpu_op", PERIODIC, 1, guest.put(DATA, struct.pack("<Q", 1 << 62))) == -EINVAL
    assert guest.call("vcpu_op", STOP_PERIODIC, 1) == 0
    assert guest.domain.vcpus[1].timers.period == 0
    assert guest.call("vcpu_op", PHYSID, 0, va(DATA)) == -EINVAL
    assert guest.call("vcpu_op", INFO, 0, va(FREE_SLOT)) != 0


def test_what_is_saved_of_the_fpu_is_what_the_processor_saves() -> None:
    bare = Bare()
    try:
        bare.core.regs[0] = BARE_DATA
        bare.trap("d9e8 d9eb dec1 d9ee 660f6ed8 f30f7ee3 480fae00 0f0b")  # fld1 fldpi faddp fldz; movd xmm3, eax; movq xmm4, xmm3; fxsave64
        seen = bytes(bare.memory.bytes[BARE_DATA : BARE_DATA + 512])
        saved = fpu.save(bare.core)
        for start, end in ((0, 5), (24, 28), (32, 160), (160, 416)):
            assert saved[start:end] == seen[start:end], f"bytes {start} to {end}"
        fpu.load(bare.core, bytes(512))
        fpu.load(bare.core, saved)
        assert fpu.save(bare.core) == saved
    finally:
        bare.close()
