"""Frozen views of the scheduler: who waits, who runs, who ran."""

from __future__ import annotations

from emulator.control.view import View


class QueuedView(View, frozen=True):
    """A vCPU that waits for a physical CPU or is on one, with what the scheduler says of its domain."""

    domid: int
    credit: int = 0
    priority: str = ""
    weight: int = 0
    cap: int = 0
    wants: str = ""  # its last hypercall
    vcpu: int = 0
    behind: bool = False  # its domain's turn, now or to come, begins with another of its vCPUs
    cpu: int = -1  # the one it is on; -1: it waits


class RunQueueView(View, frozen=True):
    """Who is on which CPU and the schedulers' queues in order, both of one moment, and who held which CPU in the last second."""

    scheduler: str = ""
    waiting: tuple[QueuedView, ...] = ()
    stints: tuple[tuple[int, int, int, int], ...] = ()  # (cpu, domid, began, ended), ns before now: negative
    on_cpu: tuple[QueuedView, ...] = ()
