"""A crashed guest's last state, laid out for standard error."""

from __future__ import annotations

from emulator.control.views import CrashView, VcpuView

_ROWS = (
    ("rax", "rbx", "rcx", "rdx"), ("rsi", "rdi", "rbp", "rsp"), ("r8", "r9", "r10", "r11"), ("r12", "r13", "r14", "r15"),
    ("rip", "rflags", "cr2", "cr3"), ("cr0", "cr4", "fs_base", "gs_base"), ("cs", "ss", "ds", "es", "fs", "gs"),
)  # fmt: skip
_STACK_WORDS = 32
_SELECTORS = frozenset(("cs", "ss", "ds", "es", "fs", "gs"))


def printable(text: str) -> str:
    """A guest's words without anything that a terminal might obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def crash_report(name: str, domid: int, crash: CrashView) -> str:
    """Several lines: what happened, registers, code at RIP, stack. Ends with a newline."""
    vcpu = crash.vcpu
    lines = [f"{printable(name)} (domain {domid}) crashed: {printable(crash.reason)}", ""]
    lines += [f"  vCPU {vcpu.vcpu} in {vcpu.mode} mode"]
    lines += [f"  last trap       {printable(vcpu.last_trap)}"] if vcpu.last_trap else []
    lines += [f"  last hypercall  {printable(vcpu.last_hypercall)}"] if vcpu.last_hypercall else []
    lines += ["", *_registers(vcpu)]
    lines += _code(vcpu)
    lines += _stack(vcpu)
    return "\n".join(lines) + "\n"


def _registers(vcpu: VcpuView) -> list[str]:
    lines = []
    for row in _ROWS:
        if cells := [_register(name, vcpu.registers[name]) for name in row if name in vcpu.registers]:
            lines.append("  " + "  ".join(cells))
    return lines


def _register(name: str, value: int) -> str:
    return f"{name:<2} {value:04x}" if name in _SELECTORS else f"{name:<7} {value:016x}"


def _code(vcpu: VcpuView) -> list[str]:
    if not vcpu.disassembly:
        return ["", "  code at rip: not readable"]
    rip = vcpu.registers.get("rip", -1)
    lines = ["", "  code at rip"]
    for insn in vcpu.disassembly:
        mark = ">" if insn.address == rip else " "
        lines.append(f"  {mark} {insn.address:016x}  {insn.data.hex(' '):<32}  {printable(insn.text)}")
    return lines


def _stack(vcpu: VcpuView) -> list[str]:
    words = [vcpu.stack[at : at + 8] for at in range(0, min(len(vcpu.stack), 8 * _STACK_WORDS) & ~7, 8)]
    if not words:
        return ["", "  stack at rsp: not readable"]
    rsp = vcpu.registers.get("rsp", 0)
    lines = ["", "  stack at rsp"]
    for first in range(0, len(words), 4):
        values = "  ".join(f"{int.from_bytes(word, 'little'):016x}" for word in words[first : first + 4])
        lines.append(f"    {(rsp + 8 * first) & (2**64 - 1):016x}  {values}")
    return lines
