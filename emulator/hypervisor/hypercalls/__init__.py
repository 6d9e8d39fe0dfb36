"""The hypercall table: a handler a number, a file a family. What is not here answers -ENOSYS.

A handler takes the vCPU and the six arguments, returns the result (negative: -errno) or raises Refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.abi.xen import HYPERCALL_NUMBER, HYPERCALLS
from emulator.hypervisor.hypercalls import (
    callbacks,
    console,
    control,
    event_channel,
    grant_table,
    memory_op,
    mmu,
    sched,
    segments,
    tools,
    vcpu_op,
    version,
)

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

Handler = Callable[["Vcpu", int, int, int, int, int, int], int]


def _table() -> tuple[Handler | None, ...]:
    handlers: list[Handler | None] = [None] * len(HYPERCALLS)
    for family in (callbacks, console, control, event_channel, grant_table, memory_op, mmu, sched, segments, tools, vcpu_op, version):
        for name, handler in family.HYPERCALLS.items():
            handlers[HYPERCALL_NUMBER[name]] = handler
    return tuple(handlers)


HANDLERS: tuple[Handler | None, ...] = _table()
