"""Grants, refusals and run queues for the fake engine's details."""

from __future__ import annotations

from emulator.control.memoryviews import FrameEntryView, FrameView
from emulator.control.schedulingviews import QueuedView, RunQueueView
from emulator.control.views import (
    FlowView,
    GrantMappingView,
    GrantsView,
    GrantView,
    LinkView,
    RefusalView,
)


def frame_view(pfn: int) -> FrameView:
    """A page table, named by a table above and mapped read-only; frames from 0x8000 on are holes."""
    if pfn >= 0x8000:
        return FrameView(pfn, owner="nobody")
    entries = (FrameEntryView(1, 0x5A31, 0x1F0, 0xFFFF888000000000 + (pfn << 12), "r--xad-"), FrameEntryView(2, 0x77F, 3, -1, "rwuxad-"))
    return FrameView(pfn, pfn + 0x200, "the domain", "L1 table", 1, 3, True, False, entries, 70)


def grants_view(domid: int) -> GrantsView:
    """A disk's and a network card's grants, and one mapping of a neighbour's frame."""
    given = [GrantView(0, 0, "access", 0xFFFE, "domain 0: 1 writing"), GrantView(1, 0, "access", 0xFFFF, "domain 0: 1 writing")]
    given += [GrantView(8 + n, 0, "read-only" if n % 3 else "access", 0x1A20 + n * 5, "domain 0: 1 reading" if n < 4 else "") for n in range(14)]
    given.append(GrantView(40, 3, "part of a page", 0x2FF))
    return GrantsView(version=1, frames=1, limit=64, given=tuple(given), mapped=(GrantMappingView(0, 3, 17, 0x4120, "host, read-only"),))


def refusal_views(now_ns: int) -> tuple[RefusalView, ...]:
    """Oldest first, as the engine keeps them."""
    told = (
        ("mmu_update", "EINVAL", "L1 entry 0x5a31067 maps a page-table frame writable: it is a L2 table (used 1 time)"),
        ("grant_table_op map", "EPERM", "reference 99 grants nothing to domain 4"),
        ("page table write", "EPERM", "frame 0x12 is the hypervisor's"),
        ("mmuext_op pin_l4_table", "EBUSY", "frame 0x77f is mapped writable (used 2 times)"),
        ("memory_op exchange", "ENOMEM", "an extent of 2^9 frames at once; the host's limit is 2^0"),
        ("vcpu_op", "ENOENT", "no vCPU 7"),
    )
    return tuple(RefusalView(now_ns - (len(told) - at) * 1_300_000_000, *row) for at, row in enumerate(told))


def run_queue(now_ns: int) -> RunQueueView:
    """One domain runs, two wait, and the last second is shared by three on two CPUs."""
    step = now_ns // 250_000_000
    waiting = (
        QueuedView(4, 8_200_000 - step * 37_000 % 6_000_000, "UNDER", 256, 0, "mmu_update(1: pt 0x5a31090) = 0"),
        QueuedView(4, 8_200_000 - step * 37_000 % 6_000_000, "UNDER", 256, 0, "sched_op(poll) = 0", 1, True),
        QueuedView(3, -1_500_000, "OVER", 256, 50, "sched_op(yield) = 0"),
    )
    on_cpu = (QueuedView(2, 9_600_000 - step * 53_000 % 7_000_000, "BOOST", 256, 0, "sched_op(block) = 0", cpu=0),)
    stints = []
    for slot in range(20):
        began = -1_000_000_000 + slot * 50_000_000
        stints.append((0, 2 if slot % 4 else 4, began, began + 46_000_000))
        if slot % 3 != 2:
            stints.append((1, 4 if slot % 2 else 3, began, began + 30_000_000))
    return RunQueueView("credit", waiting, tuple(stints), on_cpu)


def flow_views(now_ns: int) -> tuple[FlowView, ...]:
    """A disk read and written in waves, and a card that has moved nothing for a while."""
    step = now_ns // 250_000_000
    done = step * 30 + step * step % 97
    disk = FlowView("xvda", "block", done, done * 9000, done * 1200 + step // 8 * 900_000, done, done * 140_000)
    return disk, FlowView("vif4.0", "net", 512, 40_000)


def link_views(domids: list[int], now_ns: int) -> tuple[LinkView, ...]:
    """Every guest with Domain-0, debian and the shell with each other, and a grant to a domain that is not there."""
    step, found = now_ns // 250_000_000, []
    for domid in domids:
        if not domid:
            continue
        found.append(LinkView(domid, 0, 2 + domid % 4, 0, int(domid == 4), step * 40 * domid, domid * 4, min(domid, 3)))
        if domid == 4:
            found += [LinkView(4, 3, 1, 0, 1, step * 3, 1, 0, 1), LinkView(4, 77, 0, 0, 0, 0, 2)]
        elif domid == 3:
            found += [LinkView(3, 4, 1, 0, 0, step * 3, 1, 1, 0), LinkView(3, 2, 0, 1)]
    return tuple(found)
