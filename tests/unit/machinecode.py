"""Machine code in our sources is a line an instruction, its bytes and a comment: whether the two agree.

    "488b01"  # label: mov rax, qword ptr [rcx + COUNT]    why
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import capstone

LINE = re.compile(r'^    "([0-9a-f]+)"  # (.+)$', re.MULTILINE)
WORD = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


def disassembled(code: bytes) -> list[capstone.CsInsn]:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    found = list(engine.disasm(code, 0))
    assert sum(instruction.size for instruction in found) == len(code), "bytes that are no instruction"
    return found


def commented(source: str) -> list[tuple[str, str, str]]:
    """(bytes, label, instruction) of every line of a source file."""
    found = []
    for code, comment in LINE.findall(Path(source).read_text()):
        text = re.split(r"\s{2,}", comment)[0]
        label, colon, rest = text.partition(": ")
        found.append((code, label if colon else "", rest if colon else text))
    return found


def normal(text: str, names: Mapping[str, Mapping[str, int]]) -> str:
    """Names of offsets by their values: `names` has a table for each base register."""
    base = re.search(r"\[(\w+)", text)
    table = names.get(base[1], {}) if base else {}
    plain = WORD.sub(lambda match: str(table[match[0]]), text)
    plain = re.sub(r"0x([0-9a-f]+)", lambda m: str(int(m[1], 16)), plain)
    plain = re.sub(r"\b(\d+) \+ (\d+)", lambda m: str(int(m[1]) + int(m[2])), plain)
    plain = re.sub(r" \+ 0\]", "]", plain).replace("+ -", "- ")
    return re.sub(r"-(\d+)$", lambda m: str((1 << 64) - int(m[1])), plain).replace(" ", "")


def check(source: str, code: bytes, names: Mapping[str, Mapping[str, int]], labels: Mapping[str, int]) -> None:
    """Every line disassembles to its comment, and what it names by a label lies there; `labels`: of what is behind the code."""
    lines = commented(source)
    assert bytes.fromhex("".join(line for line, _, _ in lines)) == code
    instructions = disassembled(code)
    assert len(lines) == len(instructions)
    places = {label: instruction.address for (_, label, _), instruction in zip(lines, instructions, strict=True) if label} | dict(labels)
    for (_, _, text), instruction in zip(lines, instructions, strict=True):
        mnemonic, _, target = text.partition(" ")
        relative = re.search(r"\[rip \+ (\w+)\]", text)
        if target in places:
            assert (mnemonic, places[target]) == (instruction.mnemonic, int(instruction.op_str, 16))
        elif relative:
            assert mnemonic == instruction.mnemonic
            assert places[relative[1]] == instruction.address + instruction.size + instruction.disp
        else:
            assert normal(text, names) == normal(f"{instruction.mnemonic} {instruction.op_str}".strip(), names)
