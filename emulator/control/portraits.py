"""Detailed views of one domain, made by its holder between two slices."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import capstone
import numpy as np

from emulator.abi import grant_table as abi
from emulator.abi.errno import NAMES
from emulator.abi.netif import SLOTS
from emulator.abi.xen import ACCESSED, DIRTY, GLOBAL, NX, RW, USER
from emulator.abi.xenbus import state_name
from emulator.control.handshakeviews import HandshakeStepView, HandshakeView
from emulator.control.memoryviews import FRAME_TYPES, FrameEntryView, FrameView, MemoryView
from emulator.control.views import (
    FlowView,
    GrantMappingView,
    GrantsView,
    GrantView,
    Insn,
    PortView,
    RefusalView,
    RingView,
    SnapshotView,
    TraceLine,
    TraceView,
    VcpuView,
)
from emulator.dom0.backends.block.device import BlockDevice
from emulator.dom0.backends.net.device import Vif
from emulator.dom0.config import DomainConfig
from emulator.dom0.guest import Guest
from emulator.dom0.snapshots import Snapshot
from emulator.dom0.xenbus import XenbusBackend
from emulator.errors import UserError
from emulator.hypervisor.inspect import VcpuState, frame_kinds, port_states, vcpu_state
from emulator.hypervisor.layout import INVALID_M2P
from emulator.hypervisor.memory import whereabouts
from emulator.hypervisor.memory.frames import FREE, OWNER_NAMES, TYPE_NAMES
from emulator.hypervisor.trace import Trace, TraceEvent

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain

_BLOCKS, _SAMPLES, _INSTRUCTIONS = 2048, 1024, 12
_STALL_NS = 1_000_000_000
_STORE_BYTES, _RECENT = 1024, 512


@cache
def _disassembler() -> capstone.Cs:
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def disassemble(code: bytes, address: int) -> tuple[Insn, ...]:
    found = []
    for at, size, mnemonic, operands in _disassembler().disasm_lite(code, address, _INSTRUCTIONS):
        start = at - address
        found.append(Insn(at & (1 << 64) - 1, code[start : start + size], f"{mnemonic} {operands}".strip()))
    return tuple(found)


def vcpu_view(state: VcpuState, last_trap: str = "", last_hypercall: str = "", **times: int) -> VcpuView:
    return VcpuView(
        vcpu=state.number, state="b" if state.blocked else "r", mode="kernel" if state.kernel_mode else "user", registers=state.registers,
        upcall_pending=state.upcall_pending, upcall_mask=state.upcall_mask, last_trap=last_trap, last_hypercall=last_hypercall,
        timer_ns=state.timer_ns, disassembly=disassemble(state.code, state.registers["rip"]), stack=state.stack, **times,
    )  # fmt: skip


def _vcpus(guest: Guest) -> tuple[VcpuView, ...]:
    domain = guest.domain
    views = []
    for vcpu in domain.vcpus:
        kept = vcpu.accounting
        lived = domain.clock.now()
        times = {"cpu": kept.cpu, "guest_ns": kept.guest_ns - kept.hypervisor_ns, "hypervisor_ns": kept.hypervisor_ns,
                 "idle_ns": max(0, lived - kept.guest_ns)}  # fmt: skip
        views.append(vcpu_view(vcpu_state(domain, vcpu), kept.last_trap, vcpu.last_hypercall, **times))
    return tuple(views)


def _memory(guest: Guest) -> MemoryView:
    domain = guest.domain
    kinds = frame_kinds(domain)
    for pfn, name in ((guest.pfn_of(guest.console_mfn), "console"), (guest.pfn_of(guest.store_mfn), "xenstore")):
        if 0 <= pfn < len(kinds):
            kinds[pfn] = FRAME_TYPES.index(name)
    counts = np.bincount(kinds, minlength=len(FRAME_TYPES))
    block = -(-len(kinds) // _BLOCKS)
    padded = np.zeros(-(-len(kinds) // block) * block, dtype=np.uint8)
    padded[: len(kinds)] = kinds
    # A block shows its rarest kind worth seeing: one page table among plain RAM is what the eye should find.
    rank = np.array([0, 1, 9, 10, 11, 12, 8, 2, 13, 13, 13, 13, 7, 3], dtype=np.uint8)
    rows = padded.reshape(-1, block)
    shown = rows[np.arange(len(rows)), np.argmax(rank[rows], axis=1)]
    step = max(1, len(kinds) // _SAMPLES)
    sample = tuple((pfn, int(domain.p2m[pfn])) for pfn in range(0, len(kinds), step))
    return MemoryView(
        current=domain.reservation.owned, target=guest.memory.target, minimum=guest.memory.least, maximum=guest.memory.most,
        types=shown.tobytes(), block=block, p2m_sample=sample,
        type_counts={name: int(count) for name, count in zip(FRAME_TYPES, counts, strict=True) if count},
        nr_pfns=len(kinds), nr_mfns=domain.memory.frames, dirty=guest.album.dirty(),
    )  # fmt: skip


def frame(guest: Guest, pfn: int) -> FrameView:
    """One frame and the page-table entries that name it. A question of the domain; some milliseconds for a large one."""
    domain = guest.domain
    if not 0 <= pfn < len(domain.p2m):
        raise UserError(f"no frame {pfn:#x}", why=f"domain {domain.domid} counts its frames up to {len(domain.p2m) - 1:#x}")
    mfn, frames = int(domain.p2m[pfn]), domain.frames
    owner = frames.owner[mfn]
    if owner == FREE:
        return FrameView(pfn, owner=OWNER_NAMES[FREE])
    found = whereabouts.find(domain.memory.quads, frames, mfn)
    entries = tuple(FrameEntryView(e.level, e.table, e.slot, e.address, _entry_flags(e.value)) for e in found.entries)
    return FrameView(pfn, mfn, OWNER_NAMES[owner], TYPE_NAMES[frames.type[mfn]], frames.count[mfn], frames.uses(mfn) + 1,
                     bool(frames.pinned[mfn]), mfn in frames.leaving, entries, found.total, found.whole)  # fmt: skip


def _entry_flags(value: int) -> str:
    bits = {"w": RW, "u": USER, "a": ACCESSED, "d": DIRTY, "g": GLOBAL}
    letters = {letter: bool(value & bit) for letter, bit in bits.items()} | {"x": not value & NX}
    return "r" + "".join(letter if letters[letter] else "-" for letter in "wuxadg")


def _rings(guest: Guest) -> tuple[RingView, ...]:
    console = guest.console
    in_cons, in_prod, out_cons, out_prod = console.indices()
    common: dict[str, Any] = {"gfn": guest.pfn_of(guest.console_mfn), "port": guest.console_port}
    now = time.monotonic_ns()
    stalled = guest.ring_watch(in_cons, in_prod, now)
    rings = [
        RingView("console out", "console-out", 2048, out_prod, out_cons, recent=console.tail, **common),
        RingView("console in", "console-in", 1024, in_prod, in_cons, recent=console.typed, stalled=stalled > _STALL_NS, **common),
    ]
    req_cons, req_prod, rsp_cons, rsp_prod = guest.store_indices()
    store: dict[str, Any] = {"gfn": guest.pfn_of(guest.store_mfn), "port": guest.store_port}
    page = guest.domain.memory.frame(guest.store_mfn)
    for name, kind, at, prod, cons in (("requests", "req", 0, req_prod, req_cons), ("replies", "rsp", _STORE_BYTES, rsp_prod, rsp_cons)):
        recent = _last_bytes(page[at : at + _STORE_BYTES], prod)
        rings.append(RingView(f"xenstore {name}", f"xenstore-{kind}", _STORE_BYTES, prod, cons, recent=recent, **store))
    rings += [view for device in guest.disks.devices.values() for view in _block_rings(guest, device, now)]
    rings += [view for vif in guest.vifs.devices.values() for view in _net_rings(guest, vif)]
    return tuple(rings)


def _last_bytes(ring: memoryview, prod: int) -> bytes:
    """What was put into a byte ring last, oldest first; what was taken out still stands there."""
    size = len(ring)
    count, end = min(prod, _RECENT), prod % size
    return bytes(ring[max(0, end - count) : end]) if count <= end else bytes(ring[end - count :]) + bytes(ring[:end])


def _net_rings(guest: Guest, vif: Vif) -> list[RingView]:
    views = []
    for number, queue in enumerate(vif.queues):
        name, place = f"{vif.name}-q{number}" if len(vif.queues) > 1 else vif.name, queue.place
        for kind, ring, mfn, port in (("tx", queue.tx, place.frames[0], place.ports[0]), ("rx", queue.rx, place.frames[1], place.ports[-1])):
            views.append(RingView(f"{name} {kind}", f"net-{kind}", SLOTS, *ring.indices(), slots=ring.slots(),
                                  stalled=vif.stalled(kind == "rx"), gfn=guest.pfn_of(mfn), port=port, device=vif.name, queue=number,
                                  age_ns=vif.waiting_ns(kind == "rx")))  # fmt: skip
    return views


def _block_rings(guest: Guest, device: BlockDevice, now_ns: int) -> list[RingView]:
    views = []
    for number, queue in enumerate(device.queues):
        ring, oldest = queue.ring, queue.ring.oldest_ns()
        age = max(0, now_ns - oldest) if oldest else 0
        name = f"{device.spec.vdev}-q{number}" if len(device.queues) > 1 else device.spec.vdev
        views.append(RingView(name, "block", ring.size, *ring.indices(), slots=ring.slots(), stalled=age > _STALL_NS,
                              gfn=guest.pfn_of(queue.frames[0]), port=queue.port, device=device.spec.vdev, queue=number, age_ns=age))  # fmt: skip
    return views


def flows(guest: Guest) -> tuple[FlowView, ...]:
    """What each device has moved: counters that any thread may read."""
    disks = [(device.spec.vdev, device.counters) for device in tuple(guest.disks.devices.values())]
    vifs = [(vif.name, vif.counters) for vif in tuple(guest.vifs.devices.values())]
    return (
        *(FlowView(name, "block", c.requests, c.read_bytes, c.written_bytes, c.answered, c.wait_ns) for name, c in disks),
        *(FlowView(name, "net", c.tx_frames + c.rx_frames, c.rx_bytes, c.tx_bytes, c.waited, c.wait_ns) for name, c in vifs),
    )


def _ports(guest: Guest) -> tuple[PortView, ...]:
    return tuple(PortView(p.port, p.kind, p.bound, p.vcpu, p.pending, p.masked, p.count, p.peer) for p in port_states(guest.domain))


def _refusals(guest: Guest) -> tuple[RefusalView, ...]:
    return tuple(RefusalView(time_ns, what, NAMES.get(errno, str(errno)), reason) for time_ns, what, errno, reason in guest.domain.refusals)


def _grants(guest: Guest) -> GrantsView:
    domain = guest.domain
    grants, mappings = domain.grants, domain.mappings
    given = []
    for ref, flags, domid, frame, users in grants.list():
        pfn = domain.layout.pfn_of(frame) if domain.frames.owned(frame) else INVALID_M2P
        given.append(GrantView(ref, domid, _grant_kind(flags), pfn if pfn != INVALID_M2P else -1, users))
    mapped = tuple(GrantMappingView(handle, m.domid, m.ref, m.mfn, _mapping_kind(m.flags)) for handle, m in sorted(mappings.handles.items()))
    return GrantsView(grants.version, len(grants.shared), grants.limit, tuple(given), mapped)


def _grant_kind(flags: int) -> str:
    kind = flags & abi.GTF_type_mask
    if kind != abi.GTF_permit_access:
        return "transitive" if kind == abi.GTF_transitive else "transfer"
    return "part of a page" if flags & abi.GTF_sub_page else "read-only" if flags & abi.GTF_readonly else "access"


def _mapping_kind(flags: int) -> str:
    named = ((abi.GNTMAP_host_map, "host"), (abi.GNTMAP_device_map, "device"), (abi.GNTMAP_readonly, "read-only"))
    return ", ".join(name for flag, name in named if flags & flag)


def _handshakes(guest: Guest) -> tuple[HandshakeView, ...]:
    devices: list[XenbusBackend] = [*guest.disks.devices.values(), *guest.vifs.devices.values()]
    return tuple(_handshake(device) for device in devices)


def _handshake(device: XenbusBackend) -> HandshakeView:
    state, timeline, waiting = device.handshake, device.handshake.timeline, device.waiting()
    steps = tuple(HandshakeStepView(s.time_unix, s.who, state_name(s.before), state_name(s.after), s.nodes) for s in timeline.steps)
    return HandshakeView(
        device.label, device.kind, device.devid, state_name(state.frontend), state_name(state.state), device.front, device.back,
        waiting.who if waiting else "", waiting.whom if waiting else "", waiting.line() if waiting else "",
        steps[-1].time_unix if steps else 0.0, steps, timeline.forgotten, device.trouble,
    )  # fmt: skip


QUESTIONS: dict[str, Callable[[Guest], Any]] = {
    "vcpus": _vcpus, "memory": _memory, "rings": _rings, "ports": _ports, "refusals": _refusals, "grants": _grants,
    "handshakes": _handshakes,
}  # fmt: skip
"""Parts of a DomainDetail by name; each must run as a question of the domain."""


def trace(domain: Domain, kept: Trace, since: int) -> TraceView:
    lines = tuple(_trace_line(event) for event in kept.events if event.seq > since)
    totals = {name: count for name, count in domain.hypercall_totals().items() if count}
    return TraceView(lines, kept.seq, {name: tuple(buckets) for name, buckets in kept.histogram.items()}, totals)


def _trace_line(event: TraceEvent) -> TraceLine:
    return TraceLine(event.seq, event.vtime_ns, event.vcpu, event.kind, event.name, event.said, event.result, event.reason, event.cost_ns)


def config(kept: DomainConfig) -> dict[str, str]:
    """The configuration as text, in xl's names."""
    shown = {key: f"[ {', '.join(map(repr, value))} ]" if isinstance(value, tuple) else str(value) for key, value in kept.values.items()}
    return {"file": kept.file, "uuid": kept.uuid, "kernel": str(kept.kernel), **shown}


def snapshot(domid: int, taken: Snapshot) -> SnapshotView:
    return SnapshotView(domid, taken.name, taken.taken_unix, taken.vtime_ns, taken.pages, taken.screen, taken.automatic)
