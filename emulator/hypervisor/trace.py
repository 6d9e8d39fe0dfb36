"""What a domain did lately: hypercalls, traps and refusals for the live trace. Costs nothing while nobody looks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.abi import grant_table, xen
from emulator.abi.xen import HYPERCALLS

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

KEPT = 2000
ARGUMENTS = {"mmu_update": 4, "mmuext_op": 4, "update_va_mapping": 3, "set_callbacks": 3, "vcpu_op": 3, "console_io": 3,
             "grant_table_op": 3, "set_trap_table": 1, "set_timer_op": 1, "fpu_taskswitch": 1, "get_debugreg": 1,
             "update_va_mapping_otherdomain": 4, "sched_op": 2, "event_channel_op": 2}  # fmt: skip
"""Arguments that mean something, where not two."""
MEMOP_CMD_MASK = 0x3F  # above it lies where a preempted memory_op goes on


def _commands(names: Mapping[str, object], prefix: str) -> dict[int, str]:
    return {value: name.removeprefix(prefix) for name, value in names.items() if name.startswith(prefix) and isinstance(value, int)}


COMMANDS = {"sched_op": _commands(vars(xen), "SCHEDOP_"), "vcpu_op": _commands(vars(xen), "VCPUOP_"),
            "event_channel_op": _commands(vars(xen), "EVTCHNOP_"), "memory_op": _commands(vars(xen), "XENMEM_"),
            "callback_op": _commands(vars(xen), "CALLBACKOP_"), "grant_table_op": _commands(vars(grant_table), "GNTTABOP_")}  # fmt: skip
"""What the first argument of a hypercall asks for, in the words of Xen's headers."""


class TraceEvent:
    """One finished hypercall (`arguments`), or a trap or event that reached the guest (`detail`)."""

    __slots__ = ("arguments", "cost_ns", "detail", "kind", "name", "reason", "result", "seq", "vcpu", "vtime_ns")

    def __init__(self, seq: int, vtime_ns: int, vcpu: int, kind: str, name: str) -> None:
        self.seq, self.vtime_ns, self.vcpu, self.kind, self.name = seq, vtime_ns, vcpu, kind, name
        self.arguments: tuple[int, ...] = ()
        self.detail, self.result, self.reason, self.cost_ns = "", "", "", 0

    @property
    def said(self) -> str:
        """The arguments as one reads them: the command by its name in Xen's headers, small numbers decimal, the others hexadecimal."""
        if self.detail or not self.arguments:
            return self.detail
        words = [f"{value:#x}" if value > 9 else str(value) for value in self.arguments[: ARGUMENTS.get(self.name, 2)]]
        named = COMMANDS.get(self.name, {}).get(self.arguments[0] & (MEMOP_CMD_MASK if self.name == "memory_op" else -1))
        return ", ".join([named, *words[1:]] if named else words)


def call_name(number: int) -> str:
    return HYPERCALLS[number] if number < len(HYPERCALLS) and HYPERCALLS[number] else f"hypercall_{number}"


class Trace:
    """The newest `KEPT` events and a histogram of cost by name (powers of two of ns)."""

    def __init__(self) -> None:
        self.events: deque[TraceEvent] = deque(maxlen=KEPT)
        self.histogram: dict[str, list[int]] = {}
        self.seq = 0
        self._open: TraceEvent | None = None
        self._began = 0

    def enter(self, vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> None:
        self.seq += 1
        self._open = TraceEvent(self.seq, vcpu.domain.clock.now(), vcpu.number, "hypercall", call_name(number))
        self._open.arguments = arguments
        self._began = time.perf_counter_ns()

    def note(self, vcpu: Vcpu, kind: str, name: str, detail: str = "") -> None:
        """A trap or an event that was given to the guest."""
        self.seq += 1
        event = TraceEvent(self.seq, vcpu.domain.clock.now(), vcpu.number, kind, name)
        event.detail = detail
        self.events.append(event)

    def leave(self, result: str, reason: str) -> None:
        event = self._open
        if event is None:
            return
        event.cost_ns = time.perf_counter_ns() - self._began
        event.result, event.reason = result, reason
        self.events.append(event)
        self.histogram.setdefault(event.name, [0] * 32)[min(31, event.cost_ns.bit_length())] += 1
        self._open = None
