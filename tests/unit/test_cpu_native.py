"""The native callbacks: what their comments say is what their bytes are."""

from __future__ import annotations

import re
from pathlib import Path

import capstone
import pytest

from emulator.cpu import native
from emulator.cpu.mappings import rights_at

INDEX = {name: getattr(native, name) * 8 for name in ("COUNT", "LIMIT", "ENV", "RAISE", "TSC_BASE", "TSC_COST", "IO_ALLOWED", "TSC_AUX")}
REGISTERS = {"RAX": 0, "RCX": 8, "RDX": 16}  # offsets in CPUX86State
SHORT = {name: code for name, code in native.STUBS.items() if name not in ("syscall", "update", "block")}  # they have tests of their own
BLANKS = re.compile(r"\s+")
LINE = re.compile(r'^\s+f?"([0-9a-f]+(?:\{[^}]*\}[0-9a-f]*)?)"\s+# (.+)$', re.MULTILINE)


def disassembled(code: bytes) -> list[str]:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found = list(engine.disasm(code, 0))
    assert sum(instruction.size for instruction in found) == len(code), "bytes that are no instruction"
    return [f"{instruction.mnemonic} {instruction.op_str}".strip() for instruction in found]


def normal(text: str, code: str) -> str:
    """A comment or a disassembled instruction, brought to one spelling."""
    text = text.lower()
    for name, offset in INDEX.items():
        text = text.replace(f"+{name.lower()}]", f" + {offset:#x}]" if offset else "]")
    text = re.sub(r"\[rcx\+rdx\*8\]", f"[rcx + {REGISTERS['RDX']:#x}]", text)
    text = re.sub(r"\[rcx\+r(ax|cx)\]|\[rcx\+rcx\*8\]", lambda m: "[rcx]" if "ax" in m[0] else "[rcx + 8]", text)
    text = text.replace("qword ptr ", "").replace("dword ptr ", "dword ").replace("count_shift", str(native.COUNT_SHIFT))
    text = re.sub(r"\[(\w+) \+ (?:0x)?0*([0-9a-f]+)\]", lambda m: f"[{m[1]} + {int(m[2], 16)}]", text)
    text = text.replace("0xffffffff", "-1").replace("vector", str(int.from_bytes(bytes.fromhex(code)[1:5], "little")))
    text = re.sub(r"0x([0-9a-f]+)", lambda m: str(int(m[1], 16)), text)
    return BLANKS.sub("", text)


def commented() -> list[tuple[str, str]]:
    """(bytes in hex, comment) of every commented line of machine code in the source."""
    source = Path(native.__file__).read_text()
    lines = LINE.findall(source)
    found = []
    for code, comment in lines:
        code = code.replace("{COUNT_SHIFT:02x}", f"{native.COUNT_SHIFT:02x}")
        code = re.sub(r"\{(?:vector|VECTOR_BUDGET)\.[^}]*\}", (0x77).to_bytes(4, "little").hex(), code)
        found.append((code, comment))
    return found


@pytest.mark.parametrize(("code", "comment"), commented())
def test_every_commented_line_disassembles_to_its_comment(code: str, comment: str) -> None:
    text = re.split(r"\s{2,}", comment)[0]
    label, _, rest = text.partition(": ")
    text = rest or label
    instructions = disassembled(bytes.fromhex(code))
    wanted = [part.strip() for part in text.split(";")]
    for instruction, want in zip(instructions, wanted, strict=True):
        if want.split()[0] in ("jae", "je", "jne"):
            assert instruction.split()[0] == want.split()[0]  # the target is checked by the flow below
            continue
        assert normal(instruction, code) == normal(want, code)


def test_all_lines_were_found() -> None:
    assert len(commented()) >= 30


@pytest.mark.parametrize("name", sorted(SHORT))
def test_a_stub_is_whole_and_its_jumps_land_on_its_own_instructions(name: str) -> None:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code = SHORT[name]
    instructions = list(engine.disasm(code, 0))
    starts = {instruction.address for instruction in instructions}
    assert sum(instruction.size for instruction in instructions) == len(code)
    assert instructions[-1].mnemonic in ("ret", "jmp")
    for instruction in instructions:
        if instruction.mnemonic in ("jae", "je", "jne"):
            target = int(instruction.op_str, 16)
            assert target in starts
            if target < instruction.address:
                continue  # a loop
            before = instructions[[i.address for i in instructions].index(target) - 1]
            assert before.mnemonic in ("ret", "jmp"), "a refusal is reached by its jump only"


def test_a_stub_touches_no_register_that_its_caller_keeps_but_puts_it_back() -> None:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    kept = {"rbx", "ebx", "rbp", "ebp", "r12", "r13", "r14", "r15", "rsp"}
    for name, code in SHORT.items():
        instructions = list(engine.disasm(code, 0))
        pushed = [instruction.op_str for instruction in instructions if instruction.mnemonic == "push"]
        assert pushed == [instruction.op_str for instruction in instructions if instruction.mnemonic == "pop"][::-1]
        room = [instruction.mnemonic for instruction in instructions if instruction.op_str == "rsp, 8"]
        assert room in ([], ["sub", "add"])
        for instruction in instructions:
            _read, written = instruction.regs_access()
            names = {instruction.reg_name(register) for register in written} - set(pushed)
            stack = {"rsp"} if instruction.mnemonic in ("ret", "push", "pop", "call") or instruction.op_str == "rsp, 8" else set()
            assert not names & (kept - stack), (name, instruction.mnemonic)


def test_the_page_is_never_writable_and_executable() -> None:
    assert rights_at(native.native_code().address["block"]).startswith("r-x")
