"""The budget is exact: wherever a run is cut, the guest cannot tell, and the same cuts fall at the same places again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from emulator.cpu import native
from emulator.cpu.core import RAX, RBX, RCX, RSI
from tests.patience import meanwhile, until
from tests.unit.cores import CODE, DATA, STACK, UNMAPPED, Bare

# Read-modify-writes, a call, a division, string stores, flags carried over blocks: what a cut in the wrong place would do twice.
# L: inc [rbx]; lock xadd [rbx+8], rcx; add [rbx+16], rax; adc [rbx+24], 0; call F; dec rsi; jnz L; ud2
# F: push rax; ror [rbx+32], 3; add rax, rcx; pop rdx; xor rax, rdx; jc G; inc [rbx+40]; G: ret
MIX = bytes.fromhex(
    "48ff03 f0480fc14b08 48014310 4883531800 e808000000 48ffce 75e5 0f0b 9090"
    "50 48c14b2003 4801c8 5a 4831d0 48d1c8 7204 48ff4328 c3"
)  # fmt: skip
ROUNDS = 300_000


@pytest.fixture
def bare() -> Iterator[Bare]:
    machine = Bare()
    yield machine
    machine.close()


def prepare(bare: Bare, rounds: int = ROUNDS) -> None:
    bare.load(MIX)
    for number in range(16):
        bare.core.regs[number] = 0
    bare.core.regs[4] = STACK + 0x800
    bare.core.regs[RAX], bare.core.regs[RBX], bare.core.regs[RCX], bare.core.regs[RSI] = 0x1234567, DATA, 3, rounds
    bare.memory.bytes[DATA : DATA + 64] = bytes(range(64))
    bare.core.control[native.COUNT] = 0
    bare.core.rflags = 0x200
    bare.traps.clear()


Picture = tuple[int, int, int, tuple[int, ...], bytes]


def picture(bare: Bare) -> Picture:
    core = bare.core
    return core.control[native.COUNT], core.rip, core.rflags, tuple(core.regs), bytes(bare.memory.bytes[DATA : DATA + 64])


def whole(bare: Bare, rounds: int = ROUNDS) -> Picture:
    prepare(bare, rounds)
    assert bare.run(1 << 40) == 0
    assert bare.traps[0].vector == 6
    assert int.from_bytes(bare.memory.bytes[DATA : DATA + 8], "little") == 0x0706050403020100 + rounds
    return picture(bare)


def test_random_limits_change_nothing(bare: Bare) -> None:
    end, choice = whole(bare), random.Random(1)
    prepare(bare)
    cuts = 0
    while not bare.traps:
        assert bare.run(choice.choice((1, 2, 7, 30, 5_000, 50_000))) == 0
        cuts += 1
    assert cuts > 100
    assert picture(bare) == end


def test_a_limit_is_not_passed_by_more_than_a_block(bare: Bare) -> None:
    prepare(bare)
    control = bare.core.control
    for _ in range(500):
        limit = control[native.COUNT] + 100
        assert bare.run(100) == 0
        assert limit <= control[native.COUNT] < limit + 32
        assert CODE <= bare.core.rip < CODE + len(MIX)


def test_a_spent_budget_executes_nothing(bare: Bare) -> None:
    prepare(bare)
    before = picture(bare)
    for _ in range(50):
        assert bare.run(0) == 0
    assert picture(bare) == before


def test_stops_from_another_thread_replay_exactly(bare: Bare) -> None:
    rounds = 8_000_000
    end = whole(bare, rounds)
    done, stops = threading.Event(), list[Picture]()

    def disturb() -> None:
        choice = random.Random(2)
        while not done.is_set():
            bare.core.stop()
            time.sleep(choice.choice((0, 1e-5, 1e-4)))

    def disturbed() -> bool:
        """Whether the other thread came to its turn, which on a busy machine it may not."""
        prepare(bare, rounds)
        stops.clear()
        while not bare.traps:
            assert bare.run(1 << 30) == 0
            stops.append(picture(bare))
        assert picture(bare) == end
        return len(stops) > 5

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        until(disturbed, lambda: "the machine is too busy to disturb anything")
    finally:
        done.set()
        thread.join()

    prepare(bare, rounds)
    for stop in stops:
        bare.core.control[native.LIMIT] = stop[0]
        while bare.core.control[native.COUNT] < stop[0]:
            assert bare.core.run() == 0
        assert picture(bare)[0] == stop[0]
        if stop is not stops[-1]:
            assert picture(bare) == stop
    if not bare.traps:
        assert bare.run(1 << 30) == 0
    assert picture(bare) == end


def test_flushes_at_every_cut_change_nothing(bare: Bare) -> None:
    end, choice = whole(bare), random.Random(3)
    prepare(bare)
    while not bare.traps:
        assert bare.run(choice.randrange(100_000)) == 0
        choice.choice((bare.core.flush_tlb, bare.core.flush_code, lambda: bare.core.flush_page(DATA),
                       lambda: bare.core.forget_frame(CODE >> 12)))()  # fmt: skip
    assert picture(bare) == end


def test_a_guest_that_only_faults_stops_at_its_budget(bare: Bare) -> None:
    control = bare.core.control
    bare.core.regs[RBX] = UNMAPPED

    def handle(_vector: int) -> None:
        control[native.COUNT] += 2_000
        assert len(bare.traps) < 10_000, "the budget is never looked at"

    bare.on_trap = handle
    for code in ("0f0b", "cc", "488b03", "f4", "0f05", "0fa2"):
        bare.load(code)
        bare.traps.clear()
        before = control[native.COUNT]
        assert bare.run(1_000_000) == 0
        assert 1_000_000 <= control[native.COUNT] - before < 1_010_000
        assert len(bare.traps) <= 500


def test_a_jump_to_itself_ends(bare: Bare) -> None:
    bare.load("ebfe")
    for _ in range(100):
        assert bare.run(1_000) == 0
        assert bare.core.rip == CODE
    bare.load("f3a4")  # rep movsb, 2^40 bytes onto themselves: one block a round
    bare.core.regs[6] = bare.core.regs[7] = DATA
    bare.core.regs[RCX] = 4000
    assert bare.run(100) == 0
    assert 0 < bare.core.regs[RCX] < 4000
    assert bare.core.rip == CODE


def test_a_lowered_limit_ends_a_block_chained_to_itself_soon(bare: Bare) -> None:
    bare.load("48ffc0 ebfb")
    bare.core.regs[RAX] = 0
    with meanwhile(bare.core.stop):
        assert bare.run(1 << 60) == 0, "it would run for years"
