"""Which fault a non-canonical address gives: #SS where it was to be reached by the stack segment, #GP else (SDM 3A, 3.3.7.1).

The core knows of #GP only. A #GP(0) that stays the guest's is therefore looked at once more: an instruction whose address counts from
RSP or RBP without FS or GS, or that pushes or pops, and whose address is not canonical, faulted on its stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emulator.hypervisor.emulation.decoding import Instruction, Memory, effective_address
from emulator.hypervisor.emulation.msrs import canonical
from emulator.hypervisor.emulation.state import MASK64, RSP, EmulationState

RBP: Final = 5
StackTest = Callable[[EmulationState], bool]
_PUSHES: Final = frozenset({"push", "pushf", "pushfq", "call", "enter"})
_POPS: Final = frozenset({"pop", "popf", "popfq", "ret"})
_NO_ACCESS: Final = frozenset({"lea", "nop"})


def compile_stack_test(instruction: Instruction) -> StackTest:
    """Whether the instruction, about to be executed in 64-bit code, faults on its stack."""
    following = instruction.length
    places = [(effective_address(operand, instruction.address_bits), operand.size, operand.base in (RSP, RBP) and operand.segment not in ("fs", "gs"))
              for operand in instruction.operands if isinstance(operand, Memory) and instruction.name not in _NO_ACCESS]  # fmt: skip
    below = -8 if instruction.name in _PUSHES else 0
    implied = RSP if instruction.name in _PUSHES | _POPS else RBP if instruction.name == "leave" else -1

    def test(state: EmulationState) -> bool:
        regs = state.regs
        for locate, size, stack in places:
            address = locate(regs, (state.rip + following) & MASK64)
            if not canonical(address) or not canonical(address + max(size, 1) - 1):
                return stack
        return implied >= 0 and not canonical((regs[implied] + below) & MASK64)

    return test
