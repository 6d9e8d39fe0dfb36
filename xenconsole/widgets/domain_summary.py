"""The summary tab: a domain's life, the last lines of its console, and what is kept of it when it crashed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from emulator.control.views import CrashView, DomainView
from xenconsole.rates import NO_RATES, DomainRates
from xenconsole.units import amount, braille, byte_rate, clock, fit, gauge, printable, size, span
from xenconsole.widgets.config_panel import wrap
from xenconsole.widgets.lines import EMPTY, Line, Span, beside, line
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.text import tail_lines, word_lines
from xenconsole.widgets.vcpu_panel import code_lines, register_lines, state_span

SHUTDOWN = {
    "poweroff": "powered off",
    "reboot": "rebooting",
    "suspend": "suspended",
    "crash": "crashed",
    "watchdog": "ended by its watchdog",
    "destroyed": "destroyed",
}


def state_letter(view: DomainView) -> str:
    """The letter that says most of xl's six: dying and crashed before shut down, paused before blocked and running; -: it waits for a CPU."""
    return next((letter for letter in "dcsprb" if letter in view.state), "-")


def placement(view: DomainView) -> str:
    """Where it may run and where rather, when that is not anywhere."""
    told = (("pool {}", view.pool, ("", "Pool-0")), ("CPUs {} only", view.affinity, ("all",)), ("rather on {}", view.soft_affinity, ("all",)))
    return ", ".join(form.format(printable(value)) for form, value, usual in told if value not in usual)


def life_lines(view: DomainView, rates: DomainRates, history: Sequence[float], now_unix: float, width: int) -> list[Line]:
    """Who it is, how it stands, what it uses; then its vCPUs and its traffic."""
    label = 11

    def fact(name: str, *parts: str | Span | tuple[str, str], field: str = "") -> Line:
        return line(Span(f"{name:<{label}}", "dim", field), *parts)

    ended = SHUTDOWN.get(view.shutdown, view.shutdown)
    state: list[Span] = [state_span(state_letter(view))]
    if ended and ended != state[0].text:
        state.append(Span(f", {ended}"))
    state.append(Span(f"   {view.state}", "dim"))
    since = datetime.fromtimestamp(view.started_unix).strftime("%H:%M:%S") if view.started_unix else "–"
    out = [
        fact("name", Span(printable(view.name), "bold")),
        fact("domain", f"{view.domid}", Span(f"   {view.uuid}" if width >= 56 else "", "dim", "dom:uuid"), field="dom:domid"),
        fact("state", *state),
        fact("started", since, (f", {span(max(now_unix - view.started_unix, 0))} ago" if view.started_unix else "", "dim")),
    ]
    if view.crash:
        reason = wrap(Span(f"{'crash':<{label}}", "dim"), printable(view.crash), width)
        out += [(row[0], *(span._replace(style="trouble") for span in row[1:])) for row in reason]
    out.append(EMPTY)
    graph = braille(history, min(max(width - 37, 0), 40), 100.0 * max(len(view.vcpus), 1))
    out.append(fact("CPU", f"{rates.cpu:>5.1f} %  ", Span(graph, "graph"), Span(f"  {clock(view.cpu_ns / 1e9)} in all", "dim")))
    share = view.mem_kib / view.maxmem_kib if view.maxmem_kib else 0.0
    full, empty = gauge(share, min(max(width - 40, 4), 24))
    memory = f"{size(view.mem_kib, long=True)} of {size(view.maxmem_kib, long=True)}"
    out.append(fact("memory", f"{memory}  ", Span(full, "graph"), Span(empty, "rule"), field="mem:current"))
    for name, rate, total, field in (
        ("hypercalls", rates.hypercalls, view.hypercalls, "dom:hypercalls"),
        ("events", rates.events, view.events, "dom:events"),
        ("faults", rates.faults, view.faults, "dom:faults"),
    ):
        out.append(fact(name, f"{amount(rate):>5}/s", (f"   {total:,} in all", "dim"), field=field))
    if where := placement(view):
        out.append(fact("runs on", where))
    if view.config_file:
        out.append(fact("made from", printable(view.config_file)))
    if view.snapshots:
        out.append(fact("snapshots", f"{view.snapshots}", ("   7 shows them", "dim")))
    out += [EMPTY, line(("vCPU   state     CPU    load     guest     xen", "dim"))]
    for vcpu in view.vcpus:
        load = rates.vcpus[vcpu.vcpu] if vcpu.vcpu < len(rates.vcpus) else 0.0
        word = state_span(vcpu.state)
        out.append(
            line(
                f"{vcpu.vcpu:>4}   ",
                word._replace(text=fit(word.text, 9)),
                Span(f"{vcpu.cpu if vcpu.cpu >= 0 else '–':>4} ", field="cpu:physical"),
                f"{load:>6.1f} %",
                Span(f"{clock(vcpu.cpu_ns / 1e9):>10}", "", "time:guest"),
                Span(f"{clock(vcpu.xen_ns / 1e9):>8}", "dim", "time:xen"),
            )
        )
    traffic = view.traffic
    rows = (
        ("console", rates.console_in, rates.console_out, traffic.console_in, traffic.console_out),
        ("network", rates.net_rx, rates.net_tx, traffic.net_rx, traffic.net_tx),
        ("disk", rates.block_read, rates.block_write, traffic.block_read, traffic.block_write),
    )
    out += [EMPTY, line(("traffic        in/s    out/s   in all  out all", "dim"))]
    for name, down, up, total_in, total_out in rows:
        moved = total_in or total_out
        text = f"{byte_rate(down):>8}{byte_rate(up):>9}{byte_rate(total_in):>9}{byte_rate(total_out):>9}"
        out.append(line(Span(f"{name:<{label}}", "dim"), Span(text, "" if moved else "dim")))
    return out


class LifePane(Pane):
    """Who the domain is and what it uses."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("life", id=id)
        self.view: DomainView | None = None
        self.rates: DomainRates = NO_RATES
        self.history: tuple[float, ...] = ()
        self.now_unix = 0.0

    def show(self, view: DomainView | None, rates: DomainRates, history: tuple[float, ...], now_unix: float) -> None:
        self.view, self.rates, self.history, self.now_unix = view, rates, history, now_unix
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if self.view is None:
            return [line(("nothing known of it yet", "dim"))]
        return life_lines(self.view, self.rates, self.history, self.now_unix, width)


class TailPane(Pane):
    """The last lines of the console, as plain text; `c` opens the console itself."""

    follows = True
    keys = "c opens it"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("console", id=id)
        self.tail: bytes | None = None  # not asked yet

    def show(self, tail: bytes) -> None:
        if tail != self.tail:
            self.tail = tail
            self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if self.tail is None:
            return []
        rows = tail_lines(self.tail, 200)
        return [line(text) for text in rows] if rows else [line(("it has said nothing yet", "dim"))]


def crash_lines(crash: CrashView, width: int) -> list[Line]:
    """The crash report: why, where, registers, code, stack and the last words."""
    vcpu = crash.vcpu
    out: list[Line] = [line(Span("✖ ", "trouble bold"), Span(printable(crash.reason), "trouble bold"))]
    when = datetime.fromtimestamp(crash.time_unix).strftime("at %H:%M:%S, ") if crash.time_unix else ""
    out.append(line((f"  {when}vCPU {vcpu.vcpu} in its {vcpu.mode}", "dim")))
    for name, text, field in (("last trap", vcpu.last_trap, "vcpu:trap"), ("last call", vcpu.last_hypercall, "vcpu:hypercall")):
        if text:
            out.append(line(Span(f"  {name:<10}", "dim", field), printable(text)))
    out += [EMPTY, *register_lines(vcpu.registers, frozenset(), width), EMPTY]
    code = [line(("code", "dim")), *code_lines(vcpu, 60)]
    stack = [line(("stack", "dim")), *word_lines(vcpu.stack[:128], vcpu.registers.get("rsp", 0))]
    out += beside(code, stack, 60) if width >= 114 else [*code, EMPTY, *stack]
    words = tail_lines(crash.console_tail, 12)
    if words:
        out += [EMPTY, line(("last words on its console", "dim")), *(line(text) for text in words)]
    return out


class CrashPane(Pane):
    """What is kept of a guest that crashed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("crash report", id=id)
        self.crash: CrashView | None = None

    def show(self, crash: CrashView | None) -> None:
        if crash != self.crash:
            self.crash = crash
            self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        return crash_lines(self.crash, width) if self.crash is not None else []
