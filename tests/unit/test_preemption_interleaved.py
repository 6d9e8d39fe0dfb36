"""Long hypercalls of two vCPUs, piece by piece in any order, with the domain put back to earlier moments between: nothing is counted wrong,
and nothing is left. The smallest pieces there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.domains import PRESENT, RW, SPARE, USER, Tiny

LINK = PRESENT | RW | USER
LEVELS = (4, 4, 3, 3, 2, 2, 1, 1, 1)
"""Of the tables that are pinned, unpinned and written; each may name those one level below it."""
UNPIN, MACHINE = 4, 0
REGISTERS = (0, 7, 6, 2, 10, 8, 9)


@dataclass(frozen=True)
class Step:
    vcpu: int
    kind: str  # pin, unpin, write, give (decrease_reservation), keep, return (to what was kept)
    table: int
    slot: int
    target: int


steps = st.builds(Step, st.integers(0, 1), st.sampled_from(("pin", "pin", "unpin", "unpin", "write", "write", "give", "keep", "return")),
                  st.integers(0, len(LEVELS) - 1), st.integers(0, 3), st.integers(-1, len(LEVELS) - 1))  # fmt: skip


@dataclass
class Interleaved(Tiny):
    """Tables in the frames from SPARE on, each filled with what lies one level below."""

    waiting: list[tuple[int, ...] | None] = field(default_factory=lambda: [None, None])

    def __post_init__(self) -> None:
        super().__init__()
        self.tables = [self.mfn(SPARE + number) for number in range(len(LEVELS))]
        assert self.update(*((self.entry_address(SPARE + number), 0) for number in range(len(LEVELS))))[0] == 0
        for mfn, level in zip(self.tables, LEVELS, strict=True):
            below = [other for other, its in zip(self.tables, LEVELS, strict=True) if its == level - 1] or [self.mfn(100)]
            for slot in range(4):
                self.domain.memory.words[mfn << 9 | slot] = below[slot % len(below)] << 12 | LINK
        self.kept: tuple[bytes, object, object, list[tuple[int, ...] | None]] | None = None
        self.patience = 1

    def step(self, step: Step) -> None:
        domain, mfn = self.domain, self.tables[step.table]
        if step.kind == "keep":
            self.kept = bytes(domain.memory.bytes), domain.frames.save(), domain.reservation.save(), list(self.waiting)
        elif step.kind == "return":
            if self.kept is not None:
                domain.memory.bytes[:], frames, reservation, self.waiting = *self.kept[:3], list(self.kept[3])
                domain.frames.load(frames)  # type: ignore[arg-type]
                domain.reservation.load(reservation)  # type: ignore[arg-type]
        elif (registers := self.waiting[step.vcpu]) is not None:
            for register, value in zip(REGISTERS, registers, strict=True):
                domain.core.regs[register] = value
            self._piece(step.vcpu, domain.core.rip, self.again)
        else:
            self._piece(step.vcpu, domain.core.rip, lambda: self._begin(step, mfn))

    def _begin(self, step: Step, mfn: int) -> int:
        if step.kind == "pin":
            return self.extended(LEVELS[step.table] - 1, mfn)
        if step.kind == "unpin":
            return self.extended(UNPIN, mfn)
        if step.kind == "give":
            return self.call_with("memory_op", 1, "QQIIHxxxxxx", self.put(21, mfn.to_bytes(8, "little")), 1, 0, 0, 0x7FF0)
        value = self.tables[step.target] << 12 | LINK if step.target >= 0 else 0
        return self.update((mfn << 12 | step.slot << 3 | MACHINE, value))[0]

    def _piece(self, vcpu: int, rip: int, act: Callable[[], int]) -> None:
        act()
        core = self.domain.core
        self.waiting[vcpu] = tuple(core.regs[register] for register in REGISTERS) if core.rip == rip else None
        self.check_counts()


GIVEN_BACK_HALF_VALIDATED = [
    Step(1, "pin", 0, 1, 8), Step(0, "give", 5, 2, 7), Step(0, "give", 2, 3, 6), Step(0, "pin", 4, 2, 7), Step(0, "write", 0, 1, 3),
    Step(1, "pin", 4, 1, 6), Step(1, "give", 0, 2, 0), Step(0, "unpin", 8, 2, 3), Step(0, "pin", 0, 1, 3), Step(0, "give", 2, 1, 2),
]  # fmt: skip
"""An L4 that is given back while it is validated, and whose first entry turns out wrong: it was the domain's for ever."""


@example(program=GIVEN_BACK_HALF_VALIDATED)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(steps, min_size=20, max_size=60))
def test_whatever_two_vcpus_do_between_each_others_pieces_adds_up(monkeypatch: pytest.MonkeyPatch, program: list[Step]) -> None:
    monkeypatch.setattr("emulator.hypervisor.traps.ALLOWANCE", 1)
    guest = Interleaved()
    try:
        for step in program:
            guest.step(step)
        guest.let_go()
    finally:
        guest.close()
