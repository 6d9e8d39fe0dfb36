"""A domain of one megabyte with hand-made page tables: hypercalls are made from Python, or by hand-assembled code that really runs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from emulator.abi.xen import HYPERCALL_NUMBER, XEN_L4_FIRST, XEN_L4_LAST, VMASST_TYPE_writable_pagetables
from emulator.cpu.core import MASK64, RAX
from emulator.cpu.native import VECTOR_SYSCALL
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.memory.frames import L1, L2, L4, SEG_DESC, WRITABLE
from emulator.hypervisor.memory.frames import SHARED as SHARED_OWNER
from emulator.hypervisor.spec import DomainSpec

PRESENT, RW, USER, NX = 1, 2, 4, 1 << 63
FRAMES = 256
BASE = 0x400000
"""Page `pfn` is at BASE + 4096 pfn. The L1 table's entries from FRAMES on are free for tests, but for shared_info."""
PT_L4, PT_L3, PT_L2, PT_L1, USER_L4 = 0, 1, 2, 3, 4  # PFNs of tables; all mapped read-only
CODE, USER_CODE, STACK, USER_STACK, DATA, SPARE = 8, 9, 16, 17, 20, 64  # PFNs
SHARED = FRAMES  # slot of shared_info
FREE_SLOT = FRAMES + 8
ARGUMENTS = 7  # registers of a hypercall: rax rdi rsi rdx r10 r8 r9
_REGISTERS = (7, 6, 2, 10, 8, 9)


def va(slot: int, offset: int = 0) -> int:
    return BASE + slot * 4096 + offset


class Tiny:
    """See the module. `domain` is started: its tables are pinned, its vCPU is in kernel mode at CODE; it asked for writable page tables."""

    def __init__(self, *, frames: int = FRAMES, max_frames: int = FRAMES, vcpus: int = 1, domid: int = 1) -> None:
        spec = DomainSpec(domid, "tiny", bytes(range(16)), frames, max_frames, vcpus=vcpus, wallclock_ns=1_700_000_000_123_456_789,
                          translation_buffer=1 << 20)  # fmt: skip
        self.patience = 100_000  # pieces of a hypercall before the guest turns to something else
        self.pieces = 0
        self.domain = domain = Domain(spec)
        words, link = domain.memory.words, PRESENT | RW | USER
        for table in (PT_L4, USER_L4):
            words[self.mfn(table) << 9] = self.mfn(PT_L3) << 12 | link
        words[self.mfn(PT_L3) << 9] = self.mfn(PT_L2) << 12 | link
        words[(self.mfn(PT_L2) << 9) + (BASE >> 21)] = self.mfn(PT_L1) << 12 | link
        for pfn in range(frames):
            words[(self.mfn(PT_L1) << 9) + pfn] = self.mfn(pfn) << 12 | PRESENT | USER | (0 if pfn <= USER_L4 else RW)
        words[(self.mfn(PT_L1) << 9) + SHARED] = domain.layout.shared_info_mfn << 12 | PRESENT | RW | USER
        domain.start(va(CODE), va(STACK, 4096), 0, self.mfn(PT_L4) << 12, va(STACK, 4096))
        domain.vm_assist = 1 << VMASST_TYPE_writable_pagetables

    # --- names and memory ------------------------------------------------------------------------------------------------

    def mfn(self, pfn: int) -> int:
        return int(self.domain.p2m[pfn])

    def entry(self, slot: int) -> int:
        """The L1 entry of a slot."""
        return self.domain.memory.words[(self.mfn(PT_L1) << 9) + slot]

    def entry_address(self, slot: int, table: int = PT_L1) -> int:
        """Machine address of an entry, as mmu_update wants it."""
        return (self.mfn(table) << 12) + slot * 8

    def put(self, slot: int, data: bytes | str, offset: int = 0) -> int:
        """Write into a page of the guest's; its address."""
        data = bytes.fromhex(data) if isinstance(data, str) else data
        at = (self.mfn(slot) << 12) + offset
        self.domain.memory.bytes[at : at + len(data)] = data
        self.domain.core.forget_frame(self.mfn(slot))
        return va(slot, offset)

    def get(self, slot: int, size: int, offset: int = 0) -> bytes:
        at = (self.mfn(slot) << 12) + offset
        return bytes(self.domain.memory.bytes[at : at + size])

    def stack(self, size: int, pfn: int = STACK) -> bytes:
        """The guest's stack from RSP up."""
        return self.get(pfn, size, (self.domain.core.regs[4] - va(pfn)))

    def frame(self, count: int) -> tuple[int, ...]:
        """So many words of it: what the guest kernel was entered with."""
        return struct.unpack(f"<{count}Q", self.stack(count * 8))

    def masked(self) -> bool:
        """Whether vCPU 0 has its events masked."""
        return self.domain.vcpus[0].upcall_masked

    # --- hypercalls --------------------------------------------------------------------------------------------------------

    def call(self, name: str | int, *arguments: int) -> int:
        """A hypercall as the trap handler gets it; its result, signed."""
        core = self.domain.core
        core.regs[RAX] = HYPERCALL_NUMBER[name] if isinstance(name, str) else name
        for register, value in zip(_REGISTERS, arguments, strict=False):
            core.regs[register] = value & MASK64
        return self.again()

    def again(self) -> int:
        """The hypercall that the registers hold, begun or interrupted; its result, signed."""
        core = self.domain.core
        rip = core.rip
        for _ in range(self.patience):  # a long hypercall begins again where it was interrupted
            core.on_trap(VECTOR_SYSCALL)
            self.pieces += 1
            if core.rip != rip or self.domain.ended or self.domain.current.waiting:
                break
        result = core.regs[RAX]
        return result - (1 << 64) if result >> 63 else result

    def call_with(self, name: str, command: int, form: str, *values: int, offset: int = 0) -> int:
        """A hypercall of the form op(command, structure): the structure is packed into DATA."""
        return self.call(name, command, self.put(DATA, struct.pack("<" + form, *values), offset))

    def update(self, *pairs: tuple[int, int]) -> tuple[int, int]:
        """mmu_update of (pointer, value) pairs; its result and how many were done."""
        at = self.put(DATA, b"".join(struct.pack("<QQ", pointer & MASK64, value & MASK64) for pointer, value in pairs), 64)
        self.put(DATA, b"\xff\xff\xff\xff")
        result = self.call("mmu_update", at, len(pairs), va(DATA), 0x7FF0)
        return result, int.from_bytes(self.get(DATA, 4), "little")

    def extended(self, command: int, arg1: int = 0, arg2: int = 0) -> int:
        """One mmuext_op."""
        return self.call("mmuext_op", self.put(DATA, struct.pack("<IxxxxQQ", command, arg1, arg2)), 1, 0, 0x7FF0)

    # --- running -----------------------------------------------------------------------------------------------------------

    def run(self, code: bytes | str, *, at: int = CODE, budget: int = 1_000_000, slices: int = 1) -> None:
        """Run code of the guest's for a while."""
        self.domain.core.rip = self.put(at, code)
        for _ in range(slices):
            self.domain.slice(budget)

    def user(self, code: bytes | str = "ebfe") -> None:
        """On to guest user mode by the iret hypercall, at USER_CODE, where `code` lies."""
        assert self.extended(15, self.mfn(USER_L4)) == 0
        rip = self.put(USER_CODE, code)
        frame = struct.pack("<9Q", 0x77, 0x11, 0xCC, 0, rip, 0xE033, 0x202, va(USER_STACK, 4096), 0xE02B)
        self.domain.core.regs[4] = self.put(STACK, frame, 2048)
        self.call("iret")

    def traps(self, *entries: tuple[int, int, int]) -> None:
        """set_trap_table of (vector, flags, address)."""
        table = b"".join(struct.pack("<BBHxxxxQ", vector, flags, 0xE033, address) for vector, flags, address in entries)
        assert self.call("set_trap_table", self.put(DATA, table + bytes(16))) == 0

    def recount(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """(kind by frame, typed uses by frame, read-only mappings by frame), found by walking all tables in use anew."""
        domain = self.domain
        words, frames = domain.memory.words, domain.frames
        uses: dict[int, int] = {}
        kinds: dict[int, int] = {}
        readers: dict[int, int] = {}
        seen: set[int] = set()

        def use(mfn: int, kind: int) -> None:
            assert kinds.setdefault(mfn, kind) == kind, f"frame {mfn:#x} is used as {kinds[mfn]} and as {kind}"
            uses[mfn] = uses.get(mfn, 0) + 1
            if L1 <= kind <= L4 and mfn not in seen:
                seen.add(mfn)
                walk(mfn, kind)

        def walk(mfn: int, kind: int) -> None:
            for index in np.flatnonzero(domain.memory.quads[mfn << 9 : mfn + 1 << 9] & np.uint64(PRESENT)).tolist():
                entry = words[mfn << 9 | index]
                if index >= frames.partial.get(mfn, (512, False))[0]:
                    break  # its references are not taken yet, or given back already
                if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
                    continue
                target = (entry & 0x000FFFFFFFFFF000) >> 12
                if kind >= L2:
                    if target != mfn:  # a table that names itself counts no use
                        linear = frames.type[target] == kind and not entry & RW
                        use(target, kind if linear else kind - 1)
                elif entry & RW:
                    use(target, WRITABLE)
                else:
                    readers[target] = readers.get(target, 0) + 1

        for mfn in np.flatnonzero(np.frombuffer(frames.pinned, dtype=np.uint8)).tolist():
            use(mfn, frames.type[mfn])
        for mfn in frames.partial:
            use(mfn, frames.type[mfn])  # its own
        for vcpu in domain.vcpus:
            for table in (vcpu.cr3_kernel, vcpu.cr3_user):
                if table:
                    use(table, L4)
            for mfn in (*vcpu.gdt_frames, *vcpu.ldt_frames.values()):
                use(mfn, SEG_DESC)
        for mfn in np.flatnonzero(frames.owners == SHARED_OWNER).tolist():
            use(mfn, WRITABLE)  # for being shared
        for entry in domain.grants.active.values():
            if entry.mfn < 0:  # a transitive one
                continue
            for _ in range(entry.pins[1] + entry.pins[3]):
                use(entry.mfn, WRITABLE)
            if entry.pins[0] + entry.pins[2]:
                readers[entry.mfn] = readers.get(entry.mfn, 0) + entry.pins[0] + entry.pins[2]
        return kinds, uses, readers

    def check_counts(self) -> None:
        """Types and counts are what a recount finds."""
        kinds, uses, readers = self.recount()
        frames = self.domain.frames
        found = {mfn: frames.count[mfn] for mfn in np.flatnonzero(frames.counts).tolist()}
        assert found == uses
        assert {mfn: frames.type[mfn] for mfn in found} == kinds
        assert {mfn: frames.readers[mfn] for mfn in np.flatnonzero(frames.reads).tolist()} == readers

    def let_go(self) -> None:
        """Every use of every frame goes, as at a domain's end, and nothing must be left (relinquish_memory)."""
        domain, frames, tables = self.domain, self.domain.frames, self.domain.tables
        tables.allowance = 1 << 62
        for ref, active in list(domain.grants.active.items()):
            for kind, pins in enumerate(list(active.pins)):
                for _ in range(pins):
                    domain.grants.unmap(ref, (kind,))
        frames.unfinished += [mfn for mfn in frames.partial if mfn not in frames.unfinished]
        tables.finish()
        for vcpu in domain.vcpus:
            for mfn in (*vcpu.gdt_frames, *vcpu.ldt_frames.values(), vcpu.cr3_kernel, vcpu.cr3_user):
                if mfn:
                    tables.put_type(mfn)
            vcpu.gdt_frames, vcpu.ldt_frames, vcpu.cr3_kernel, vcpu.cr3_user = (), {}, 0, 0
        for mfn in np.flatnonzero(np.frombuffer(frames.pinned, dtype=np.uint8)).tolist():
            tables.unpin(mfn)
        left = frames.owners != SHARED_OWNER
        assert not frames.counts[left].any() and not frames.reads.any() and not frames.leaving and not frames.partial
        assert (frames.counts[~left] == 1).all()
        domain.reservation.check()

    def close(self) -> None:
        self.domain.close()


@contextmanager
def tiny(*, frames: int = FRAMES, max_frames: int = FRAMES, vcpus: int = 1) -> Iterator[Tiny]:
    made = Tiny(frames=frames, max_frames=max_frames, vcpus=vcpus)
    try:
        yield made
    finally:
        made.close()
