"""More Xen Security Advisories on what a PV guest may do with memory and with traps: each attack as the advisory's text tells it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi import grant_table as abi
from emulator.abi.errno import EBUSY, EFAULT, EINVAL, EOPNOTSUPP
from emulator.abi.xen import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, PCD, PSE, PWT
from emulator.cpu.core import IF, IOPL, RAX, RBX, RCX
from emulator.hypervisor.emulation import Emulator, Kind
from emulator.hypervisor.emulation.cpuid import cpuid
from emulator.hypervisor.memory.frames import L4, NONE, SEG_DESC, WRITABLE
from tests.unit.domains import CODE, DATA, FREE_SLOT, PRESENT, PT_L1, PT_L2, PT_L3, PT_L4, RW, SPARE, STACK, USER, Tiny, va
from tests.unit.emulation_state import CODE as EMULATED_CODE
from tests.unit.emulation_state import TABLE, FakeState
from tests.unit.selfgrants import entry_flags, grant, map_grant, unmap_grant

SELF, HERE = 0x7FF0, FREE_SLOT + 2
LINK = PRESENT | RW | USER
PIN_L2, PIN_L3, PIN_L4, UNPIN = 1, 2, 3, 4


@pytest.fixture
def guest() -> Iterator[Tiny]:
    made = Tiny()
    yield made
    made.check_counts()
    made.domain.reservation.check()
    made.close()


def unmap(guest: Tiny, *pfns: int) -> None:
    for pfn in pfns:
        assert guest.update((guest.entry_address(pfn), 0)) == (0, 1)


# --- page types ------------------------------------------------------------------------------------------------------------------


def test_xsa_32_hypercalls_that_take_a_frame_number_check_it(guest: Tiny) -> None:
    """Frame numbers beyond the table of frames were used as indices unchecked."""
    for mfn in (guest.domain.frames.frames, 1 << 40, (1 << 52) - 1, (1 << 64) - 1):
        for command in (0, 1, 2, 3, 4, 5, 15, 16):
            assert guest.extended(command, mfn) == -EINVAL
        assert guest.extended(17, guest.mfn(SPARE), mfn) == -EINVAL
        assert guest.call("set_gdt", guest.put(DATA, struct.pack("<Q", mfn)), 512) == -EINVAL


def test_xsa_113_a_refused_m2p_update_keeps_no_reference(guest: Tiny) -> None:
    """The error path of MMU_MACHPHYS_UPDATE forgot to give its reference on the page back, so that the page outlived its domain."""
    before = guest.domain.frames.save()
    for mfn in (guest.domain.layout.gdt_mfn, guest.domain.frames.frames, 2):
        assert guest.update((mfn << 12 | 1, 7)) == (-EINVAL, 0)
    assert guest.update((guest.mfn(SPARE) << 12 | 1, SPARE)) == (0, 1)
    assert guest.domain.frames.save() == before


def test_xsa_167_superpages_are_neither_marked_nor_mapped(guest: Tiny) -> None:
    """MMUEXT_MARK_SUPER and L2 entries with PSE lacked checks of the frames behind the first."""
    for command in (19, 20):
        assert guest.extended(command, guest.mfn(SPARE) & ~511) == -EOPNOTSUPP
    assert guest.update((guest.entry_address(9, PT_L2), (guest.mfn(SPARE) & ~511) << 12 | LINK | PSE)) == (-EINVAL, 0)


def test_xsa_174_a_pv_guest_is_not_told_of_superpages() -> None:
    """A guest that saw PSE in CPUID used 2 MiB pages, which are refused, and crashed on its own user's demand."""
    assert not cpuid(1, 0)[3] >> 3 & 1
    assert not cpuid(1, 0)[3] >> 17 & 1


@pytest.mark.parametrize("level", [2, 3, 4])
def test_xsa_240_linear_tables_are_never_chained(guest: Tiny, level: int) -> None:
    """A → B → C …, each of one level: letting the first go recursed through all of them and ran over the hypervisor's stack."""
    tables = [guest.mfn(SPARE + n) for n in range(4)]
    unmap(guest, *range(SPARE, SPARE + 4))
    for mfn in tables:
        assert guest.extended(level - 1, mfn) == 0
    one, two, three, four = tables
    link = PRESENT | USER
    assert guest.update((one << 12, two << 12 | link)) == (0, 1)
    assert guest.update((two << 12, three << 12 | link)) == (-EINVAL, 0), "a table that is named so names none"
    assert guest.update((four << 12, one << 12 | link)) == (-EINVAL, 0), "a table that names one is not named so"
    assert guest.update((four << 12, two << 12 | link)) == (0, 1)
    for mfn in reversed(tables):
        assert guest.extended(UNPIN, mfn) == 0
    assert {guest.domain.frames.type[mfn] for mfn in tables} == {NONE}


def test_xsa_242_a_tables_last_reference_may_go_while_it_is_written(guest: Tiny) -> None:
    """An update held its table by a reference of its own; when that was the last to go, the table was never let go."""
    unmap(guest, SPARE, SPARE + 1)
    l4, l3 = guest.mfn(SPARE), guest.mfn(SPARE + 1)
    guest.domain.memory.words[l4 << 9] = l3 << 12 | LINK
    assert guest.extended(PIN_L4, l4) == 0
    assert guest.update((l3 << 12, guest.mfn(PT_L2) << 12 | LINK), (l4 << 12, 0), (l3 << 12, 0)) == (0, 3)
    assert guest.domain.frames.type[l3] == NONE
    assert guest.extended(UNPIN, l4) == 0


def test_xsa_299_a_table_let_go_in_part_is_nobodys(guest: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted type change was taken for a finished one: a table of which half was let go was used as a whole one."""
    unmap(guest, SPARE, SPARE + 1, SPARE + 2)
    l3, l2, l1 = (guest.mfn(SPARE + n) for n in range(3))
    words = guest.domain.memory.words
    for slot in range(8):
        words[l3 << 9 | slot], words[l2 << 9 | slot] = l2 << 12 | LINK, l1 << 12 | LINK
    assert guest.extended(PIN_L3, l3) == 0
    monkeypatch.setattr("emulator.hypervisor.traps.ALLOWANCE", 1)
    guest.patience = 2
    guest.extended(UNPIN, l3)
    assert l3 in guest.domain.frames.partial
    guest.check_counts()
    guest.patience = 1
    for slot, table in ((300, PT_L4), (300, PT_L3)):
        guest.update((guest.entry_address(slot, table), l3 << 12 | LINK))
        assert not words[guest.entry_address(slot, table) >> 3] & PRESENT
    assert guest.update((guest.entry_address(HERE), l3 << 12 | LINK))[0] != 0
    guest.patience = 1000
    assert guest.update((guest.entry_address(300, PT_L4), l3 << 12 | LINK)) == (0, 1)
    guest.check_counts()
    assert guest.update((guest.entry_address(300, PT_L4), 0)) == (0, 1)
    assert {guest.domain.frames.type[mfn] for mfn in (l3, l2, l1)} == {NONE}


def test_xsa_310_a_linear_table_let_go_in_part_is_not_linked_again(guest: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What XSA-299 had left: entries that name a table of their own level, interrupted on the way in or out."""
    unmap(guest, SPARE, SPARE + 1)
    one, two = guest.mfn(SPARE), guest.mfn(SPARE + 1)
    words = guest.domain.memory.words
    for slot in range(4):
        words[two << 9 | slot] = guest.mfn(PT_L3) << 12 | LINK
    assert guest.extended(PIN_L4, two) == 0
    assert guest.extended(PIN_L4, one) == 0
    assert guest.update((one << 12 | 8, two << 12 | PRESENT | USER)) == (0, 1)
    assert guest.extended(UNPIN, two) == 0, "the linear entry holds it"
    monkeypatch.setattr("emulator.hypervisor.traps.ALLOWANCE", 1)
    guest.patience = 1
    guest.extended(UNPIN, one)
    assert guest.domain.frames.partial, "interrupted inside"
    guest.check_counts()
    guest.patience = 1000
    assert guest.extended(PIN_L4, one) in (0, -EINVAL)
    guest.check_counts()
    if guest.domain.frames.pinned[one]:
        assert guest.extended(UNPIN, one) == 0
    assert guest.domain.frames.linear[one] == guest.domain.frames.linear[two] == 0
    assert {guest.domain.frames.type[mfn] for mfn in (one, two)} == {NONE}


def test_xsa_401_a_frame_is_typed_before_its_stale_translations_go(guest: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush came before the type was seen, and a writable mapping could be made again in between."""
    unmap(guest, SPARE)
    target, tables = guest.mfn(SPARE), guest.domain.tables
    promote, seen = tables._promote_l1, []

    def meanwhile(mfn: int) -> None:
        seen.append(guest.domain.tables.stale)
        with pytest.raises(Exception, match="writable"):
            tables.write_l1(guest.entry_address(HERE) >> 3, target << 12 | LINK)
        promote(mfn)

    monkeypatch.setattr(tables, "_promote_l1", meanwhile)
    tables.stale = False
    assert guest.extended(0, target) == 0
    assert seen == [True]
    assert guest.extended(UNPIN, target) == 0


@pytest.mark.parametrize("bits", [PWT, PCD, PSE, PWT | PCD, PCD | PSE])
def test_xsa_402_no_mapping_is_other_than_write_back(guest: Tiny, bits: int) -> None:
    """Non-coherent writes to a page that became a table were seen only after it was validated."""
    entry, value = guest.entry_address(HERE), guest.mfn(SPARE) << 12 | LINK
    assert guest.update((entry, value | bits)) == (-EINVAL, 0)
    assert guest.call("update_va_mapping", va(HERE), value | bits, 0) == -EINVAL
    assert guest.update((entry, value)) == (0, 1)
    assert guest.update((entry, value | bits)) == (-EINVAL, 0), "nor by the flags alone"
    assert guest.update((entry | 2, value | bits)) == (-EINVAL, 0)
    guest.traps((14, 4, va(CODE, 0x100)))
    guest.put(CODE, "0f0b", 0x100)
    guest.domain.core.regs[RBX], guest.domain.core.regs[RCX] = va(PT_L1, HERE * 8), value | bits
    guest.run("48890b")
    assert not guest.entry(HERE) & bits
    unmap(guest, HERE)


# --- frames that change hands --------------------------------------------------------------------------------------------------------


def exchange(guest: Tiny, *pfns: int, out: int | None = None) -> int:
    at = guest.put(DATA, b"".join(struct.pack("<Q", guest.mfn(pfn)) for pfn in pfns), 512)
    fields = struct.pack("<QQIIHxxxxxxQQIIHxxxxxxQ", at, len(pfns), 0, 0, SELF, out or at + 256, len(pfns), 0, 0, SELF, 0)
    return guest.call("memory_op", 11, guest.put(DATA, fields))


def test_xsa_159_an_exchange_that_fails_gives_everything_back(guest: Tiny) -> None:
    """Its error path freed pages twice, and lost others."""
    unmap(guest, SPARE)
    before = guest.domain.frames.save(), guest.domain.reservation.save()
    assert exchange(guest, SPARE, PT_L1) == -EINVAL  # the second is in use
    assert (guest.domain.frames.save(), guest.domain.reservation.save()) == before
    guest.domain.reservation.check()


def test_xsa_214_a_frame_that_leaves_its_domain_has_no_type(guest: Tiny) -> None:
    """A page that had held segment descriptors kept that type on its way to another domain, which filled it and used it unchecked."""
    frames, mfn = guest.domain.frames, guest.mfn(SPARE)
    unmap(guest, SPARE)
    assert guest.call("set_gdt", guest.put(DATA, struct.pack("<Q", mfn)), 512) == 0
    assert frames.type[mfn] == SEG_DESC
    assert exchange(guest, SPARE) == -EINVAL
    assert guest.call("set_gdt", guest.put(DATA, bytes(8)), 0) == 0
    assert exchange(guest, SPARE) == 0
    assert frames.type[mfn] == NONE


def test_xsa_217_a_frame_that_is_mapped_cannot_leave(guest: Tiny) -> None:
    """Whoever still had a page mapped wrote into it after it was another's."""
    assert guest.domain.frames.type[guest.mfn(SPARE)] == WRITABLE
    assert exchange(guest, SPARE) == -EINVAL
    assert guest.update((guest.entry_address(SPARE), guest.mfn(SPARE) << 12 | PRESENT | USER)) == (0, 1)
    assert exchange(guest, SPARE) == -EINVAL, "nor one that is only read"


def test_xsa_385_no_way_leads_beyond_the_maximum() -> None:
    """Populating and exchanging by turns got a domain more pages than it may have."""
    guest = Tiny(frames=256, max_frames=260)
    guest.domain.reservation.set_maximum(258)
    for operation in (0, 6):
        at = guest.put(DATA, struct.pack("<8Q", *range(300, 308)), 512)
        guest.call_with("memory_op", operation, "QQIIHxxxxxx", at, 8, 0, 0, SELF)
    assert guest.domain.reservation.owned == 258
    unmap(guest, SPARE)
    assert exchange(guest, SPARE) == 0
    assert guest.domain.reservation.owned == 258
    guest.domain.reservation.check()
    guest.close()


# --- grants --------------------------------------------------------------------------------------------------------------------------


def test_xsa_224_what_a_handle_holds_goes_once_for_each_kind(guest: Tiny) -> None:
    """Device and host mappings of one handle were counted wrongly when one went before the other, or when they were read-only."""
    frames, mfn = guest.domain.frames, guest.mfn(SPARE)
    before = frames.count[mfn], frames.readers[mfn]
    grant(guest, 9, SPARE)
    both = abi.GNTMAP_host_map | abi.GNTMAP_device_map
    for flags in (both, both | abi.GNTMAP_readonly):
        status, handle = map_grant(guest, va(HERE), 9, flags)
        assert status == 0
        assert unmap_grant(guest, va(HERE), handle) == 0, "the host's mapping alone"
        assert frames.uses(mfn) > sum(before), "the device's holds it"
        assert unmap_grant(guest, 0, handle, device=mfn << 12) == 0
        assert (frames.count[mfn], frames.readers[mfn]) == before
        assert unmap_grant(guest, va(HERE), handle) == abi.GNTST_bad_handle
        assert not entry_flags(guest, 9) & (abi.GTF_reading | abi.GTF_writing)


def test_xsa_230_the_marks_of_use_stay_while_one_mapping_is_left(guest: Tiny) -> None:
    """GTF_reading and GTF_writing were cleared by the first unmap, and the granting domain took the page back too early."""
    grant(guest, 9, SPARE)
    _, one = map_grant(guest, va(HERE), 9)
    _, two = map_grant(guest, va(HERE + 1), 9)
    _, three = map_grant(guest, va(HERE + 2), 9, abi.GNTMAP_host_map | abi.GNTMAP_readonly)
    marks = abi.GTF_reading | abi.GTF_writing
    assert unmap_grant(guest, va(HERE), one) == 0
    assert entry_flags(guest, 9) & marks == marks
    assert unmap_grant(guest, va(HERE + 1), two) == 0
    assert entry_flags(guest, 9) & marks == abi.GTF_reading
    assert unmap_grant(guest, va(HERE + 2), three) == 0
    assert not entry_flags(guest, 9) & marks


def test_xsa_318_a_long_copy_answers_zero_with_every_status_written(guest: Tiny) -> None:
    """Continued in the middle, a list of copies returned a count where zero means success, and left statuses unwritten."""
    one = struct.pack("<QHHxxxxQHHxxxxHHhxx", guest.mfn(SPARE), SELF, 0, guest.mfn(SPARE + 1), SELF, 64, 8, 0, 77)
    count = 4096 // len(one)
    assert guest.call("grant_table_op", abi.GNTTABOP_copy, guest.put(DATA, one * count), count) == 0
    assert guest.pieces >= 1
    for at in range(count):
        assert guest.get(DATA, 2, at * len(one) + 36) == bytes(2)


def test_xsa_134_a_swap_in_a_table_that_was_never_set_up_is_an_error(guest: Tiny) -> None:
    """Before the guest had chosen a version there was no table to swap in, and Xen followed a null pointer."""
    for one, two in ((0, 1 << 31), ((1 << 32) - 1, 8), (8, 100_000)):
        at = guest.put(DATA, struct.pack("<IIhxx", one, two, 99))
        assert guest.call("grant_table_op", abi.GNTTABOP_swap_grant_ref, at, 1) == 0
        assert struct.unpack("<h", guest.get(DATA, 2, 8)) == (abi.GNTST_bad_gntref,)


# --- traps, registers, what is copied out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rip", [0x800000000000, 1 << 63, 0xFFFF7FFFFFFFFFFF])
def test_xsa_7_a_return_to_a_non_canonical_address_is_the_guests_own_fault(guest: Tiny, rip: int) -> None:
    """SYSRET raised its #GP in the hypervisor's mode on the guest's stack."""
    guest.traps((13, 4, va(CODE, 0x100)))
    guest.put(CODE, "ebfe", 0x100)
    guest.domain.core.regs[4] = guest.put(STACK, struct.pack("<9Q", 0x77, 0x11, 0xCC, 256, rip, 0xE033, 0x202, va(STACK, 4096), 0xE02B), 2048)
    guest.call("iret")
    guest.domain.slice(100_000)
    assert guest.domain.ended == "crash" or guest.domain.core.rip == va(CODE, 0x100)
    assert guest.domain.core.regs[4] < HYPERVISOR_VIRT_START


def test_xsa_122_no_byte_of_the_hypervisors_is_copied_out(guest: Tiny) -> None:
    """The buffers of xen_version were filled in part and copied as a whole, with what the stack had held."""
    for command, fields in ((1, (16,)), (2, (64, 16, 32, 32)), (3, (1024,)), (4, (64,)), (9, (9,))):
        guest.put(DATA, b"\xa5" * 2048)
        assert guest.call("xen_version", command, va(DATA)) >= 0
        at = 0
        for size in fields:
            told, _, rest = guest.get(DATA, size, at).partition(b"\0")
            assert told.isascii() and not rest.strip(b"\0"), (command, told, rest)
            at += size
        assert guest.get(DATA, 2048 - at, at) == b"\xa5" * (2048 - at)


def test_xsa_202_a_guest_cannot_mask_the_hosts_interrupts_or_raise_its_privilege(guest: Tiny) -> None:
    """The flags that an emulated instruction or a return loaded could clear IF, which only the hypervisor may."""
    frame = struct.pack("<9Q", 0x77, 0x11, 0xCC, 0, va(CODE), 0xE033, IOPL | 2, va(STACK, 4096), 0xE02B)
    guest.domain.core.regs[4] = guest.put(STACK, frame, 2048)
    guest.put(CODE, "ebfe")
    guest.call("iret")
    assert guest.domain.core.rflags & (IF | IOPL) == IF
    guest.run("6a02 9d ebfe")  # push $2; popf
    assert guest.domain.core.rflags & (IF | IOPL) == IF


@pytest.mark.parametrize("stack", [HYPERVISOR_VIRT_END + 8 * n for n in (0, 2, 6, 10)] + [HYPERVISOR_VIRT_START + 64, 0xFFFF840000000000])
def test_xsa_215_no_frame_of_an_exception_reaches_into_the_hypervisors_range(guest: Tiny, stack: int) -> None:
    """The check of the kernel stack forgot the four selectors of the failsafe callback, which then went into Xen's memory."""
    guest.traps((6, 0, va(CODE, 0x100)))
    guest.call("stack_switch", 0xE02B, stack)
    hidden = bytes(guest.domain.memory.frame(guest.domain.layout.gdt_mfn))
    guest.user("0f0b")
    guest.domain.slice(100_000)
    assert guest.domain.ended == "crash"
    assert bytes(guest.domain.memory.frame(guest.domain.layout.gdt_mfn)) == hidden


def test_xsa_279_a_non_canonical_address_may_be_flushed(guest: Tiny) -> None:
    """INVPCID faults on such an address, in the hypervisor."""
    for command in (7, 9, 11):  # INVLPG_LOCAL, _MULTI, _ALL
        for address in (1 << 47, 1 << 63, HYPERVISOR_VIRT_START):
            assert guest.extended(command, address, va(DATA)) == 0
    assert guest.call("update_va_mapping", 1 << 63, 0, 2) == -EINVAL


def test_xsa_195_a_bit_offset_of_a_store_to_a_table_stays_in_the_table() -> None:
    """BTS with a bit number in a register reaches beyond its operand, by as much as the register says: it was emulated by 32 bits of it."""
    for bit in (1 << 40, (1 << 64) - 1, 8 * 4096):
        state = FakeState(bytes.fromhex("480fab07"))  # bts %rax, (%rdi)
        state.regs[RAX], state.regs[7] = bit, TABLE
        before = bytes(state.memory)
        assert Emulator().store(state, TABLE, state.write_entry).kind is not Kind.DONE
        assert bytes(state.memory) == before and state.rip == EMULATED_CODE


def test_xsa_200_an_operand_size_prefix_does_not_shrink_cmpxchg8b() -> None:
    """The prefix was honoured where processors ignore it: four bytes were compared and written of eight."""
    state = FakeState(bytes.fromhex("660fc70f"))  # data16 cmpxchg8b (%rdi)
    state.regs[7] = TABLE
    state.memory[TABLE : TABLE + 8] = (0x1122334455667788).to_bytes(8, "little")
    state.regs[RAX], state.regs[2], state.regs[RBX], state.regs[RCX] = 0x55667788, 0x11223344, 0xAAAAAAAA, 0xBBBBBBBB
    assert Emulator().store(state, TABLE, state.write_entry).kind is Kind.DONE
    assert state.memory[TABLE : TABLE + 8] == (0xBBBBBBBBAAAAAAAA).to_bytes(8, "little")


def test_call_gates_lead_nowhere(guest: Tiny) -> None:
    """A 64-bit guest may have one in its GDT; its privilege level is made 0, so that using it is a #GP that names it."""
    unmap(guest, SPARE)
    mfn, l4 = guest.mfn(SPARE), guest.mfn(PT_L4)
    guest.domain.memory.words[mfn << 9 | 3] = 0x0000EC00E0330000 | va(CODE, 0x80) & 0xFFFF
    assert guest.call("set_gdt", guest.put(DATA, struct.pack("<Q", mfn)), 512) == 0
    assert guest.domain.memory.words[mfn << 9 | 3] >> 45 & 3 == 0
    guest.traps((13, 4, va(CODE, 0x100)))
    guest.put(CODE, "ebfe", 0x100)
    guest.run("68 1b000000 68 00000000 ff1c24")  # lcall *(%rsp), selector 0x18
    assert guest.domain.core.rip == va(CODE, 0x100)
    assert guest.stack(24)[16:18] in (b"\x18\0", b"\x1b\0", b"\0\0")
    assert guest.domain.frames.type[l4] == L4
    assert guest.call("update_descriptor", (mfn << 12) + 32, 0x0000EC00E0080000) == -EINVAL
    assert guest.update((guest.entry_address(HERE), mfn << 12 | LINK)) == (-EBUSY, 0)
    assert guest.call("set_gdt", va(DATA), 0) == 0


def test_lists_are_never_read_over_the_top_of_the_address_space(guest: Tiny) -> None:
    """What XSA-212 was for memory_exchange: an offset that wraps."""
    for at in (-16, -24, -8, -1):
        assert guest.call("mmu_update", at, 2, 0, SELF) == -EFAULT
        assert guest.call("mmuext_op", at, 2, 0, SELF) == -EFAULT
        assert guest.call("multicall", at, 2) == -EFAULT
        assert guest.call("set_gdt", at, 1024) == -EFAULT
