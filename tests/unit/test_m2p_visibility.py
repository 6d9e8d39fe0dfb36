"""Who sees the read-only M2P: what a kernel uses as its page tables, and a user's only where they served a kernel, too (xen/arch/x86/mm.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi.xen import M2P_L4_SLOT, VI_CR2
from emulator.cpu.core import RAX, RBX, RSP
from emulator.hypervisor.state import load_domain, save_domain
from tests.unit.domains import CODE, PT_L4, STACK, USER_CODE, USER_L4, USER_STACK, Tiny, tiny, va

M2P = 0xFFFF800000000000
HANDLER = va(CODE, 0x400)
NEW_BASEPTR, NEW_USER_BASEPTR, PIN_L4, UNPIN = 5, 15, 3, 4
M2P_STRICT = 32
LOOK = "488b03 ebfe"  # mov rax, [rbx]


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        made.put(CODE, "ebfe", 0x400)
        made.traps((14, 0, HANDLER))
        yield made


def slot(guest: Tiny, table: int) -> int:
    return guest.domain.memory.words[guest.mfn(table) << 9 | M2P_L4_SLOT]


def user_sees_it(guest: Tiny, table: int) -> bool:
    core = guest.domain.core
    assert guest.extended(NEW_USER_BASEPTR, guest.mfn(table)) == 0
    frame = struct.pack("<9Q", 0, 0, 0, 0, guest.put(USER_CODE, LOOK), 0xE033, 0x202, va(USER_STACK, 4096), 0xE02B)
    core.regs[RSP] = guest.put(STACK, frame, 2048)
    core.rip = va(CODE)
    guest.call("iret")
    core.regs[RBX] = M2P + 8 * guest.mfn(CODE)
    guest.domain.slice(1_000_000)
    if core.rip == HANDLER:
        assert struct.unpack("<8Q", guest.stack(64))[2] == 4, "not present, in user mode"
        assert guest.domain.memory.words[(guest.domain.vcpus[0].info + VI_CR2) >> 3] == M2P + 8 * guest.mfn(CODE)
        return False
    assert core.regs[RAX] == CODE
    guest.domain.current.toggle_mode()
    return True


def test_a_kernel_sees_it(guest: Tiny) -> None:
    guest.domain.core.regs[RBX] = M2P + 8 * guest.mfn(CODE)
    guest.run(LOOK)
    assert guest.domain.core.regs[RAX] == CODE


def test_a_user_sees_it_only_in_tables_that_served_the_kernel(guest: Tiny) -> None:
    assert not user_sees_it(guest, USER_L4)
    assert user_sees_it(guest, PT_L4)
    assert guest.extended(NEW_BASEPTR, guest.mfn(USER_L4)) == 0
    assert user_sees_it(guest, USER_L4)


def test_strict_means_that_no_user_sees_it(guest: Tiny) -> None:
    assert guest.call("vm_assist", 0, M2P_STRICT) == 0
    assert guest.extended(PIN_L4, guest.mfn(USER_L4)) == 0
    assert slot(guest, USER_L4)
    assert not user_sees_it(guest, USER_L4)
    assert not user_sees_it(guest, PT_L4)
    assert not slot(guest, PT_L4), "the kernel's loses it with that, as on Xen"


def test_a_domain_that_goes_back_is_as_strict_as_it_was(guest: Tiny) -> None:
    state = save_domain(guest.domain)
    assert guest.call("vm_assist", 0, M2P_STRICT) == 0
    load_domain(guest.domain, state)
    assert guest.extended(PIN_L4, guest.mfn(USER_L4)) == 0
    assert not slot(guest, USER_L4)
    assert guest.extended(UNPIN, guest.mfn(USER_L4)) == 0
