"""store() against the emulated core: the same instruction on the same registers and memory must end in the same state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import x86_const

from emulator.hypervisor.emulation import Emulator, Kind
from tests.unit.emulation_state import CODE, DATA, SIZE, TABLE, FakeState, bare_core, exit_checks

ARITHMETIC = 0x8D5
_NAMES = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{number}" for number in range(8, 16)))
_REGISTERS = tuple(getattr(x86_const, f"UC_X86_REG_{name}") for name in _NAMES)


class Native:
    """Bare Unicorn, flat 64-bit code on plain memory."""

    def __init__(self) -> None:
        self.engine = bare_core()
        self.engine.mem_map(CODE, SIZE - CODE)

    def run(self, state: FakeState) -> tuple[list[int], int, int, bytes]:
        engine = self.engine
        engine.mem_write(CODE, bytes(state.memory[CODE:]))
        engine.ctl_remove_cache(CODE, CODE + 0x1000)
        for register, value in zip(_REGISTERS, state.regs, strict=True):
            engine.reg_write(register, value)
        engine.reg_write(x86_const.UC_X86_REG_EFLAGS, state.rflags)
        engine.emu_start(state.rip, 0, count=1)
        regs = [engine.reg_read(register) for register in _REGISTERS]
        rip, flags = engine.reg_read(x86_const.UC_X86_REG_RIP), engine.reg_read(x86_const.UC_X86_REG_EFLAGS)
        return regs, rip, flags, bytes(engine.mem_read(CODE, SIZE - CODE))


@pytest.fixture(scope="module")
def native() -> Iterator[Native]:
    with exit_checks():
        yield Native()


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator()


def compare(native: Native, emulator: Emulator, state: FakeState, fault_va: int, *, undefined: int = 0) -> None:
    regs, rip, flags, memory = native.run(state)
    outcome = emulator.store(state, fault_va, state.write_entry)
    assert outcome.kind is Kind.DONE
    assert bytes(state.memory[CODE:]) == memory
    assert [hex(value) for value in state.regs] == [hex(value) for value in regs]
    assert (state.rip, hex(state.rflags & ARITHMETIC & ~undefined)) == (rip, hex(flags & ARITHMETIC & ~undefined))


@dataclass(frozen=True)
class Form:
    """One encoding: `extension` fixes ModRM.reg; `sizes` lists operand sizes in bytes; `immediate` in bytes (-1: by size)."""

    name: str
    opcode: str
    extension: int | None = None
    sizes: tuple[int, ...] = (2, 4, 8)
    immediate: int = 0
    lockable: bool = False


WORDS, BYTE = (2, 4, 8), (1,)
_GROUP1 = ("add", "or", "adc", "sbb", "and", "sub", "xor")
_SHIFTS = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar")
FORMS = [
    Form("mov r8", "88", sizes=BYTE),
    Form("mov r", "89"),
    Form("mov imm8", "c6", 0, BYTE, 1),
    Form("mov imm", "c7", 0, WORDS, -1),
    Form("movnti", "0fc3", sizes=(4, 8)),
    Form("xchg r8", "86", sizes=BYTE, lockable=True),
    Form("xchg r", "87", lockable=True),
    Form("xadd r8", "0fc0", sizes=BYTE, lockable=True),
    Form("xadd r", "0fc1", lockable=True),
    Form("cmpxchg r8", "0fb0", sizes=BYTE, lockable=True),
    Form("cmpxchg r", "0fb1", lockable=True),
    Form("cmpxchg8b", "0fc7", 1, (4,), lockable=True),
    *(Form(f"{name} r8", f"{8 * i:02x}", sizes=BYTE, lockable=True) for i, name in enumerate(_GROUP1)),
    *(Form(f"{name} r", f"{8 * i + 1:02x}", lockable=True) for i, name in enumerate(_GROUP1)),
    *(Form(f"{name} imm8", "80", i, BYTE, 1, True) for i, name in enumerate(_GROUP1)),
    *(Form(f"{name} imm", "81", i, WORDS, -1, True) for i, name in enumerate(_GROUP1)),
    *(Form(f"{name} simm8", "83", i, WORDS, 1, True) for i, name in enumerate(_GROUP1)),
    *(Form(f"{name}8", "fe", i, BYTE, 0, True) for i, name in enumerate(("inc", "dec"))),
    *(Form(name, "ff", i, WORDS, 0, True) for i, name in enumerate(("inc", "dec"))),
    *(Form(f"{name}8", "f6", i + 2, BYTE, 0, True) for i, name in enumerate(("not", "neg"))),
    *(Form(name, "f7", i + 2, WORDS, 0, True) for i, name in enumerate(("not", "neg"))),
    *(Form(f"{name} r", opcode, lockable=True) for name, opcode in (("bts", "0fab"), ("btr", "0fb3"), ("btc", "0fbb"))),
    *(Form(f"{name} imm", "0fba", i + 5, WORDS, 1, True) for i, name in enumerate(("bts", "btr", "btc"))),
    *(Form(f"{name}8 imm", "c0", i, BYTE, 1) for i, name in enumerate(_SHIFTS)),
    *(Form(f"{name} imm", "c1", i, WORDS, 1) for i, name in enumerate(_SHIFTS)),
    *(Form(f"{name}8 1", "d0", i, BYTE) for i, name in enumerate(_SHIFTS)),
    *(Form(f"{name} 1", "d1", i, WORDS) for i, name in enumerate(_SHIFTS)),
    *(Form(f"{name}8 cl", "d2", i, BYTE) for i, name in enumerate(_SHIFTS)),
    *(Form(f"{name} cl", "d3", i, WORDS) for i, name in enumerate(_SHIFTS)),
    *(Form(f"{name} imm", opcode, sizes=WORDS, immediate=1) for name, opcode in (("shld", "0fa4"), ("shrd", "0fac"))),
    *(Form(f"{name} cl", opcode) for name, opcode in (("shld", "0fa5"), ("shrd", "0fad"))),
    *(Form(f"setcc {code}", f"0f9{code:x}", 0, BYTE) for code in range(16)),
]
_VALUES = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)),
)


def build(draw: st.DrawFn, form: Form) -> tuple[FakeState, int]:
    """A state whose next instruction is of this form, its operand inside the table."""
    size = draw(st.sampled_from(form.sizes))
    register = draw(st.integers(0, 15))
    modes = ["base", "disp8", "disp32", "sib", "absolute", "address32"]
    if form.opcode not in ("0fa4", "0fac"):  # the core forgets the immediate byte when it computes their RIP-relative address
        modes.append("rip")
    mode = draw(st.sampled_from(modes))
    lock = form.lockable and draw(st.booleans())
    field = form.extension if form.extension is not None else register & 7
    offset_register = form.name.startswith("bt") and form.name.endswith(" r")
    free = [number for number in range(16) if not (offset_register and number == register)]
    plain = [number for number in free if number & 7 not in (4, 5)]  # ModRM says something else for RSP and RBP
    base = draw(st.sampled_from(free if mode == "sib" else plain))
    index = draw(st.sampled_from([number for number in free if number not in (4, base)]))
    rex = 0x40 | (8 if size == 8 else 0) | (4 if form.extension is None and register > 7 else 0)
    displacement = draw(st.integers(-128, 127)) if mode != "base" else 0
    span = 8 if form.name == "cmpxchg8b" else size
    target = TABLE + 0x800 + draw(st.integers(-16, 16)) * 8 + draw(st.integers(0, 8 // span - 1)) * span
    regs = [draw(_VALUES) for _ in range(16)]
    if offset_register:
        offset = draw(st.integers(-2000, 2000))
        regs[register] = offset & ((1 << 64) - 1)

    scale = draw(st.integers(0, 3))
    tail = b""
    if mode in ("rip", "absolute"):
        modrm = bytes([field << 3 | 5]) if mode == "rip" else bytes([field << 3 | 4, 0x25])
    elif mode == "sib":
        regs[index] = draw(st.integers(0, 64))
        rex |= (2 if index > 7 else 0) | (1 if base > 7 else 0)
        modrm = bytes([0x80 | field << 3 | 4, scale << 6 | (index & 7) << 3 | base & 7])
        tail = displacement.to_bytes(4, "little", signed=True)
        regs[base] = target - displacement - (regs[index] << scale)
    else:
        rex |= 1 if base > 7 else 0
        wide = mode in ("disp32", "address32")
        modrm = bytes([{"base": 0, "disp8": 0x40}.get(mode, 0x80) | field << 3 | base & 7])
        tail = displacement.to_bytes(4 if wide else 1, "little", signed=True) if mode != "base" else b""
        regs[base] = target - displacement
        if mode == "address32":
            regs[base] |= 0xABCD << 32
    opcode = bytes.fromhex(form.opcode)
    count = form.immediate if form.immediate >= 0 else min(size, 4)
    immediate = draw(st.binary(min_size=count, max_size=count))
    prefix = (b"\xf0" if lock else b"") + (b"\x66" if size == 2 else b"") + (b"\x67" if mode == "address32" else b"")
    if rex != 0x40 or draw(st.booleans()):
        prefix += bytes([rex])
    if mode == "absolute":
        tail = target.to_bytes(4, "little")
    if mode == "rip":
        end = CODE + len(prefix + opcode + modrm) + 4 + count
        tail = (target - end).to_bytes(4, "little", signed=True)
    state = FakeState(prefix + opcode + modrm + tail + immediate)
    state.regs = regs
    state.rflags = 0x202 | draw(st.integers(0, 0xFFF)) & ARITHMETIC
    state.memory[TABLE : TABLE + 0x1000] = draw(st.binary(min_size=16, max_size=16)) * 256
    if form.name.startswith("cmpxchg") and draw(st.booleans()):
        held = int.from_bytes(state.memory[target : target + 8], "little")
        if mode in ("rip", "absolute") or (base != 0 and (mode != "sib" or index != 0)):
            state.regs[0] = held
            if form.name == "cmpxchg8b" and (mode in ("rip", "absolute") or (base != 2 and (mode != "sib" or index != 2))):
                state.regs[2] = held >> 32
    if form.name == "cmpxchg r" and size == 4:
        state.regs[0] &= 0xFFFFFFFF  # the core zero-extends RAX when the comparison holds; processors and Xen do not touch it
    return state, target


def _undefined(form: Form, state: FakeState) -> bool:
    """Counts beyond the operand's width: the architecture leaves the result (SHLD, SHRD) or CF open."""
    name = form.name.split()[0].rstrip("8")
    if name not in ("shl", "sal", "shr", "sar", "shld", "shrd"):
        return False
    code = bytes(state.memory[CODE : CODE + 16]).rstrip(b"\0")
    small = form.sizes == BYTE or 0x66 in code[:2]
    return small and not form.name.endswith(" 1")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_store_leaves_what_the_core_leaves(form: Form, native: Native, emulator: Emulator) -> None:
    @settings(max_examples=12, deadline=None, database=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        state, target = data.draw(st.composite(lambda draw: build(draw, form))())
        if _undefined(form, state):
            return
        # The core computes the flags of a locked NEG from the wrong operand.
        wrong = ARITHMETIC if form.name.startswith("neg") and state.memory[CODE] == 0xF0 else 0
        compare(native, emulator, state, target, undefined=wrong)

    check()


@pytest.mark.parametrize("code", ["a4", "a5", "66a5", "48a5", "aa", "ab", "66ab", "48ab"])
@pytest.mark.parametrize("flags", [0x202, 0x602])
def test_string_stores_move_as_the_core_moves(code: str, flags: int, native: Native, emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex(code))
    state.regs[0], state.regs[6], state.regs[7] = 0x1122334455667788, DATA + 0x100, TABLE + 0x208
    state.memory[DATA + 0x100 : DATA + 0x108] = b"abcdefgh"
    state.rflags = flags
    compare(native, emulator, state, TABLE + 0x208)


def test_a_repeated_string_store_does_one_iteration_a_fault(emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex("f348ab"))
    state.regs[0], state.regs[1], state.regs[7] = 0x1067, 3, TABLE
    for left in (2, 1, 0):
        assert state.rip == CODE
        assert emulator.store(state, state.regs[7], state.write_entry).kind is Kind.DONE
        assert state.regs[1] == left
    assert state.rip == CODE + 3
    assert state.memory[TABLE : TABLE + 0x20] == b"\x67\x10\0\0\0\0\0\0" * 3 + bytes(8)


def test_a_repeat_count_of_zero_stores_nothing(emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex("f36748ab"))
    state.regs[1], state.regs[7] = 5 << 32, 7 << 32 | TABLE
    assert emulator.store(state, TABLE, state.write_entry).kind is Kind.DONE
    assert (state.regs[1], state.regs[7], state.rip) == (0, TABLE, CODE + 4)


@pytest.mark.parametrize("code", ["50", "4157", "6a85", "6878563412", "6650", "54", "ff7308", "8f4708", "668f07", "8f442410"])
def test_stack_stores_are_the_cores(code: str, native: Native, emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex(code))
    state.regs = [0x0101010101010101 * index for index in range(16)]
    state.regs[3], state.regs[4], state.regs[7] = DATA, TABLE + 0x400, TABLE + 0x500
    state.memory[TABLE + 0x400 : TABLE + 0x408] = b"poppoppo"
    state.memory[DATA + 8 : DATA + 16] = b"pushpush"
    compare(native, emulator, state, TABLE + 0x400)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("488907", "beside the page that faulted"),
        ("894701", "not aligned"),
        ("0f1107", "SSE (movups)"),
        ("0f2907", "SSE (movaps)"),
        ("660f7f07", "SSE (movdqa)"),
        ("660fd607", "SSE (movq)"),
        ("0f7f07", "MMX (movq)"),
        ("dd17", "FPU (fst)"),
        ("d93f", "FPU (fnstcw)"),
        ("480fc70f", "cmpxchg16b"),
        ("0f0107", "sgdt"),
        ("0f0127", "smsw"),
        ("8c1f", "mov from a segment register"),
        ("0f38f107", "movbe, which the CPU has not"),
        ("0fae1f", "stmxcsr"),
        ("0fae07", "fxsave"),
        ("f0488907", "lock mov"),
        ("c5f81107", "vmovups"),
        ("6c", "ins"),
        ("488b07", "no store at all"),
        ("0fff", "no instruction"),
    ],
)
def test_what_xen_refuses_is_refused_and_changes_nothing(code: str, why: str, emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex(code))
    state.regs[7] = TABLE + 0x10 if why != "beside the page that faulted" else DATA
    before = list(state.regs), bytes(state.memory), state.rflags
    assert emulator.store(state, TABLE + 0x10, state.write_entry).kind is Kind.UNHANDLED, why
    assert (list(state.regs), bytes(state.memory), state.rflags) == before
    assert state.rip == CODE


def test_a_refused_entry_leaves_registers_alone(emulator: Emulator) -> None:
    for code in ("488707", "480fc107", "f0480fab0f", "480fb10f", "4889 07"):
        state = FakeState(bytes.fromhex(code))
        state.regs[0], state.regs[7], state.regs[1] = 0, TABLE, 1
        state.regs[0] = 0 if code == "480fb10f" else 0x63
        before = list(state.regs), state.rflags
        outcome = emulator.store(state, TABLE, lambda _entry, _old, _new, _compare: False)
        assert outcome.kind is Kind.UNHANDLED
        assert (list(state.regs), state.rflags) == before


def test_an_unchanged_entry_is_not_written(emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex("f0480fba2f00"))  # lock bts $0, (rdi)
    state.regs[7] = TABLE
    state.memory[TABLE] = 1

    def never(_entry: int, _old: int, _new: int, _compare: bool) -> bool:
        raise AssertionError("written")

    assert emulator.store(state, TABLE, never).kind is Kind.DONE
    assert state.rflags & 1


def test_only_locked_updates_are_by_compare_and_exchange(emulator: Emulator) -> None:
    for code, expected in (
        ("488907", False),
        ("488707", True),
        ("f0480fba2f00", True),
        ("480fba2f00", False),
        ("480fb10f", True),
    ):
        state = FakeState(bytes.fromhex(code))
        state.regs[7], state.regs[1] = TABLE, 5
        state.regs[0] = 0 if code == "480fb10f" else 7
        seen: list[bool] = []

        def accept(_entry: int, _old: int, _new: int, compare: bool, seen: list[bool] = seen) -> bool:
            seen.append(compare)
            return True

        assert emulator.store(state, TABLE, accept).kind is Kind.DONE
        assert seen == [expected]


def test_a_source_that_faults_is_the_guests_page_fault(emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex("48a5"))
    state.regs[6], state.regs[7] = DATA + 0xFFC, TABLE
    state.unmapped.add(DATA + 0x1000)
    outcome = emulator.store(state, TABLE, state.write_entry)
    assert (outcome.kind, outcome.vector, outcome.error_code, outcome.cr2) == (Kind.FAULT, 14, 4, DATA + 0x1000)
    assert state.rip == CODE


def test_an_instruction_cut_by_an_unmapped_page_faults_on_its_fetch(emulator: Emulator) -> None:
    state = FakeState()
    state.memory[CODE + 0xFFE : CODE + 0x1001] = bytes.fromhex("488907")
    state.rip = CODE + 0xFFE
    state.unmapped.add(CODE + 0x1000)
    outcome = emulator.store(state, TABLE, state.write_entry)
    assert (outcome.kind, outcome.vector, outcome.error_code, outcome.cr2) == (Kind.FAULT, 14, 16, CODE + 0x1000)


def test_a_single_step_is_reported_and_the_resume_flag_falls(emulator: Emulator) -> None:
    state = FakeState(bytes.fromhex("488907"))
    state.regs[7] = TABLE
    state.rflags = 0x10302  # RF TF IF
    outcome = emulator.store(state, TABLE, state.write_entry)
    assert outcome.kind is Kind.DONE
    assert outcome.step
    assert state.rflags == 0x302


def test_made_up_instructions_do_not_grow_the_cache(emulator: Emulator) -> None:
    fresh = Emulator()
    state = FakeState()
    state.regs[7] = TABLE
    for number in range(10000):
        state.rip = CODE
        state.memory[CODE : CODE + 7] = b"\x48\xc7\x07" + number.to_bytes(4, "little")
        assert fresh.store(state, TABLE, state.write_entry).kind is Kind.DONE
    assert len(fresh._store._windows) <= 8192
    assert len(fresh._store._handlers) <= 2048
