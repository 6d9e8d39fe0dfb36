"""The vCPU tab: which vCPUs there are, one vCPU's registers, what it does, its code and its stack."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.control.views import VcpuView
from xenconsole.units import clock, fit, gauge
from xenconsole.widgets.lines import EMPTY, Line, Span, beside, line
from xenconsole.widgets.pane import ListPane, Pane
from xenconsole.widgets.text import word_lines
from xenconsole.widgets.trace_panel import duration

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
POINTERS = ("rip", "rflags")
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
BASES = ("fs_base", "gs_base", "gs_base_user")
CONTROL = ("cr0", "cr2", "cr3", "cr4")
FLAGS = (
    (0, "CF"),
    (2, "PF"),
    (4, "AF"),
    (6, "ZF"),
    (7, "SF"),
    (8, "TF"),
    (9, "IF"),
    (10, "DF"),
    (11, "OF"),
    (14, "NT"),
    (18, "AC"),
    (21, "ID"),
)
WORDS = {"r": "running", "b": "blocked", "p": "paused", "d": "down", "s": "shut down", "c": "crashed", "-": "waiting"}
STYLES = {
    "r": "state-running",
    "b": "state-blocked",
    "p": "state-paused",
    "d": "state-down",
    "s": "state-down",
    "c": "state-crashed",
    "-": "state-paused",
}
MARK = "•"
"""Stands before a register that changed: the change is seen without colour."""


def state_span(letter: str) -> Span:
    """A state letter as its word, in its colour."""
    return Span(WORDS.get(letter, letter or "?"), STYLES.get(letter, ""), f"state:{letter if letter.isalpha() else 'waiting'}")


class Changes:
    """Which registers changed in a vCPU's last move. What stands still keeps the marks of its last move."""

    def __init__(self) -> None:
        self._last: dict[int, dict[str, int]] = {}
        self._changed: dict[int, frozenset[str]] = {}

    def feed(self, vcpus: Sequence[VcpuView]) -> None:
        for vcpu in vcpus:
            before, now = self._last.get(vcpu.vcpu), vcpu.registers
            if before is not None and before != now:
                self._changed[vcpu.vcpu] = frozenset(name for name, value in now.items() if before.get(name) != value)
            self._last[vcpu.vcpu] = now

    def of(self, vcpu: int) -> frozenset[str]:
        return self._changed.get(vcpu, frozenset())


def _register(name: str, registers: dict[str, int], changed: frozenset[str], digits: int, label: int) -> list[Span]:
    value = registers.get(name)
    text = f"{value & (1 << digits * 4) - 1:0{digits}x}" if value is not None else "-" * digits
    moved = name in changed
    return [
        Span(MARK if moved else " ", "changed"),
        Span(f"{name:<{label}} ", "dim", f"reg:{name}"),
        Span(text, "changed bold" if moved else "dim" if not value else "", f"reg:{name}"),
        Span(" "),
    ]


def flag_words(flags: int) -> str:
    """The names of the flags that are set."""
    return " ".join(name for bit, name in FLAGS if flags >> bit & 1)


def register_lines(registers: dict[str, int], changed: frozenset[str], width: int) -> list[Line]:
    """All registers in as many columns as the width takes."""
    out: list[Line] = []

    def block(names: Sequence[str], digits: int, label: int) -> None:
        columns = max(width // (digits + label + 3), 1)
        rows = -(-len(names) // columns)
        for row in range(rows):
            spans: list[Span] = []
            for name in names[row::rows]:
                spans += _register(name, registers, changed, digits, label)
            out.append(tuple(spans))

    block(GENERAL, 16, 3)
    out.append(EMPTY)
    block(("rip",), 16, 6)
    moved = "rflags" in changed
    out.append(
        (
            Span(MARK if moved else " ", "changed"),
            Span("rflags ", "dim", "reg:rflags"),
            Span(f"{registers.get('rflags', 0):08x}  ", "changed bold" if moved else "", "reg:rflags"),
            Span(flag_words(registers.get("rflags", 0)), "dim"),
        )
    )
    block(SEGMENTS, 4, 2)
    out.append(EMPTY)
    block((*BASES, *CONTROL), 16, 12)
    return out


def code_lines(vcpu: VcpuView, width: int) -> list[Line]:
    """The disassembly, the instruction at RIP marked by an arrow."""
    rip = vcpu.registers.get("rip", -1)
    out: list[Line] = []
    room = 24 if width >= 84 else 0
    for insn in vcpu.disassembly:
        here = insn.address == rip
        word, _, rest = insn.text.partition(" ")
        spans = line(
            Span("▶ " if here else "  ", "bold changed"),
            Span(f"{insn.address:016x}  ", "dim"),
            Span(fit(" ".join(f"{b:02x}" for b in insn.data), room) + "  " if room else "", "dim"),
            Span(f"{word:<8} ", "bold"),
            Span(rest),
        )
        out.append(tuple(span._replace(style=f"{span.style} on-cursor-row".strip()) for span in spans) if here else spans)
    return out or [line(("nothing readable at RIP", "dim"))]


def share_bars(vcpu: VcpuView, width: int) -> list[Line]:
    """Time in the guest, in the hypervisor and idle: a bar each."""
    total = vcpu.guest_ns + vcpu.hypervisor_ns + vcpu.idle_ns
    out: list[Line] = []
    for label, field, ns, style in (
        ("guest", "time:guest", vcpu.guest_ns, "graph"),
        ("xen", "time:xen", vcpu.hypervisor_ns, "graph-high"),
        ("idle", "time:idle", vcpu.idle_ns, "dim"),
    ):
        share = ns / total if total else 0.0
        full, empty = gauge(share, max(width - 26, 4))
        out.append(
            line(
                Span(f"{label:<6} ", "dim", field),
                Span(full, style),
                Span(empty, "rule"),
                Span(f" {share * 100:5.1f} %"),
                Span(f" {duration(ns) if ns < 1e9 else clock(ns / 1e9):>9}", "dim"),
            )
        )
    return out


class VcpuList(ListPane):
    """All vCPUs of the domain, a line each."""

    keys = "← → from any pane"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("vCPUs", id=id)
        self.vcpus: tuple[VcpuView, ...] = ()

    def show(self, vcpus: tuple[VcpuView, ...]) -> None:
        grown = len(vcpus) != len(self.vcpus)
        self.vcpus = vcpus
        self.rebuild()
        if grown:
            self.refresh(layout=True)

    def build(self, width: int, height: int) -> Sequence[Line]:
        head = line(("  vCPU state     CPU mode   upcalls", "dim"))
        out = [head]
        for row, vcpu in enumerate(self.vcpus):
            upcall = "masked" if vcpu.upcall_mask else "open"
            spans = line(
                f"{vcpu.vcpu:>4} ",
                (lambda s: s._replace(text=fit(s.text, 9)))(state_span(vcpu.state)),
                Span(f"{vcpu.cpu if vcpu.cpu >= 0 else '-':>4} ", field="cpu:physical"),
                Span(f"{vcpu.mode:<6} ", field="vcpu:mode"),
                Span(f"{upcall}", "dim" if vcpu.upcall_mask else "", "vcpu:mask"),
                Span(" + pending" if vcpu.upcall_pending else "", "notice", "vcpu:pending"),
            )
            out.append(self.marked(row, spans, width))
        return out


class VcpuPane(Pane):
    """Base of the panes on one vCPU."""

    TITLE = ""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(self.TITLE, id=id)
        self.vcpu: VcpuView | None = None
        self.changed: frozenset[str] = frozenset()

    def show(self, vcpu: VcpuView | None, changed: frozenset[str] = frozenset()) -> None:
        self.vcpu, self.changed = vcpu, changed
        self.set_title(f"{self.TITLE} of vCPU {vcpu.vcpu}" if vcpu is not None else self.TITLE)
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        return self.draw(self.vcpu, width, height) if self.vcpu is not None else [line(("no vCPU yet", "dim"))]

    def draw(self, vcpu: VcpuView, width: int, height: int) -> Sequence[Line]:
        raise NotImplementedError


class RegistersPane(VcpuPane):
    TITLE = "registers"

    def draw(self, vcpu: VcpuView, width: int, height: int) -> Sequence[Line]:
        return register_lines(vcpu.registers, self.changed, width)

    def subtitle(self) -> str:
        return f"{MARK} changed in its last move"


class ActivityPane(VcpuPane):
    """What the vCPU does: state, upcalls, timer, last trap and hypercall, where its time went."""

    TITLE = "activity"

    def draw(self, vcpu: VcpuView, width: int, height: int) -> Sequence[Line]:
        where = f" on CPU {vcpu.cpu}" if vcpu.cpu >= 0 else ""
        upcalls = "masked" if vcpu.upcall_mask else "open"
        timer = f"{vcpu.timer_ns / 1e9:.6f} s" if vcpu.timer_ns else "none"
        facts = [
            line(("state   ", "dim"), state_span(vcpu.state), Span(where, field="cpu:physical")),
            line(("mode    ", "dim"), Span(vcpu.mode, field="vcpu:mode")),
            line(
                ("upcalls ", "dim"),
                Span(upcalls, field="vcpu:mask"),
                Span(
                    ", one pending" if vcpu.upcall_pending else ", none pending",
                    "notice" if vcpu.upcall_pending else "",
                    "vcpu:pending",
                ),
            ),
            line(("timer   ", "dim"), Span(timer, field="vcpu:timer")),
        ]
        calls = [
            line(("trap    ", "dim"), Span(vcpu.last_trap or "none yet", field="vcpu:trap")),
            line(("call    ", "dim"), Span(vcpu.last_hypercall or "none yet", field="vcpu:hypercall")),
        ]
        if width >= 96:
            half = width // 2 - 2
            return [*beside(facts, [*share_bars(vcpu, half), EMPTY], half), *calls]
        return [*facts, *calls, *([EMPTY] if height > 9 else []), *share_bars(vcpu, width)]


class CodePane(VcpuPane):
    TITLE = "code at RIP"

    def draw(self, vcpu: VcpuView, width: int, height: int) -> Sequence[Line]:
        return code_lines(vcpu, width)


class StackPane(VcpuPane):
    TITLE = "stack"

    def draw(self, vcpu: VcpuView, width: int, height: int) -> Sequence[Line]:
        return word_lines(vcpu.stack, vcpu.registers.get("rsp", 0)) or [line(("nothing readable at RSP", "dim"))]
