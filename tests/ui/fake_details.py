"""Rich details for the domain screen's tests: what a booted Debian guest looks like from inside, moving with the fake clock.

`RichEngine` is the fake engine with these details, with obituaries, and with the refusals of the real client.
"""

from __future__ import annotations

import random

import msgspec

from emulator.control.memoryviews import FRAME_TYPES, FrameView, MemoryView
from emulator.control.messages import ObituaryView
from emulator.control.networkviews import NetworksView, PacketTail
from emulator.control.views import (
    CrashView,
    DomainDetail,
    DomainView,
    Insn,
    PortView,
    RingView,
    SnapshotView,
    TraceLine,
    TraceView,
    VcpuView,
)
from emulator.errors import UserError
from tests.ui.fake_engine import START_UNIX, FakeEngine
from tests.ui.fake_handshakes import handshake_views
from tests.ui.fake_networks import networks_view, packet_tail
from tests.ui.fake_sharing import flow_views, frame_view, grants_view, link_views, refusal_views, run_queue

STEP_NS = 250_000_000
LOOP = 0xFFFFFFFF81E4B2A0
CODE: tuple[tuple[str, str], ...] = (
    ("0f1f440000", "nop dword ptr [rax + rax]"),
    ("65488b0425c0fb0100", "mov rax, qword ptr gs:[0x1fbc0]"),
    ("488b00", "mov rax, qword ptr [rax]"),
    ("a808", "test al, 8"),
    ("7514", "jne 0xffffffff81e4b2c8"),
    ("bf01000000", "mov edi, 1"),
    ("31f6", "xor esi, esi"),
    ("b81d000000", "mov eax, 0x1d"),
    ("0f05", "syscall"),
    ("4885c0", "test rax, rax"),
    ("78e1", "js 0xffffffff81e4b2a0"),
    ("e8b3f0ffff", "call 0xffffffff81e4a380"),
    ("ebda", "jmp 0xffffffff81e4b2a0"),
    ("cc", "int3"),
)
CALLS: tuple[tuple[str, str, str, str, str, int], ...] = (
    ("trap", "#PF", "error 0x6 at 0x7f3a5c1d2008 rip 0x55d0c2a41f20", "to the guest", "", 4100),
    ("hypercall", "mmu_update", "1: pt 0x5a31090 = 0x80000000061b2067", "0", "", 6300),
    ("hypercall", "iret", "to 0x55d0c2a41f20 user", "", "", 1900),
    ("hypercall", "update_va_mapping", "0xffffc90000201000 = 0x8000000003f0c161, flush local", "0", "", 5200),
    ("hypercall", "multicall", "3: stack_switch, set_segment_base, fpu_taskswitch", "0", "", 3700),
    ("event", "upcall", "port 6 VIRQ_TIMER", "delivered", "", 2100),
    ("hypercall", "vcpu_op", "set_singleshot_timer vcpu 0 at 61.254 s", "0", "", 2600),
    ("hypercall", "mmuext_op", "new_baseptr mfn 0x5a31", "0", "", 11800),
    ("hypercall", "sched_op", "block", "0", "", 1500),
    ("trap", "#GP", "wrmsr 0x1d9 at 0xffffffff8105c7f2", "emulated", "", 8200),
    ("hypercall", "mmu_update", "1: pt 0x3c01118 = 0x5a31067", "-EINVAL",
     "L1 entry 0x5a31067 maps a page-table frame writable (PGT_l2_page_table)", 7400),
    ("hypercall", "event_channel_op", "send port 2", "0", "", 2900),
    ("message", "console input", "5 bytes", "port 2 pending", "", 0),
    ("hypercall", "xen_version", "version", "0x40011", "", 1100),
)  # fmt: skip


def vcpu_view(index: int, state: str, now_ns: int) -> VcpuView:
    """A vCPU that goes round its idle loop."""
    step = now_ns // STEP_NS
    rng = random.Random(index * 1000 + step)
    insns, address = [], LOOP
    for data, text in CODE:
        insns.append(Insn(address=address, data=bytes.fromhex(data), text=text))
        address += len(bytes.fromhex(data))
    here = insns[step % (len(insns) - 1)].address
    registers = {
        "rax": 0x1D, "rbx": index, "rcx": here, "rdx": 0, "rsi": 0, "rdi": 1, "rbp": 0,
        "rsp": 0xFFFFFFFF82A03EB8 - index * 0x4000,
        "r8": 0xFFFF88800F1B2400, "r9": 0, "r10": 0x7FF0, "r11": 0x246, "r12": 0xFFFFFFFF82A1AA40, "r13": 0, "r14": 0, "r15": 0,
        "rip": here, "rflags": 0x246, "cs": 0xE033, "ss": 0xE02B, "ds": 0, "es": 0, "fs": 0, "gs": 0,
        "fs_base": 0, "gs_base": 0xFFFF88800F800000 + index * 0x80000, "gs_base_user": 0x7F3A5C1D0740,
        "cr0": 0x8005003B, "cr2": 0x7F3A5C1D2008, "cr3": 0x5A31000, "cr4": 0x42660,
    }  # fmt: skip
    registers |= {
        "rax": rng.randrange(64),
        "rdx": rng.randrange(1 << 32),
        "r9": rng.randrange(1 << 40),
        "rflags": 0x202 | rng.choice((0, 0x44)),
    }
    stack = b"".join((LOOP + 7 * i if i % 3 == 0 else rng.randrange(1 << 30) if i % 3 == 1 else 0).to_bytes(8, "little") for i in range(48))
    return VcpuView(
        vcpu=index,
        state=state,
        cpu=index % 2,
        mode="user" if step % 5 == index else "kernel",
        registers=registers,
        upcall_pending=step % 3 == 1,
        upcall_mask=step % 4 == 0,
        last_trap="#PF error 0x6 at 0x7f3a5c1d2008",
        last_hypercall="sched_op(block) = 0",
        guest_ns=now_ns // 3,
        hypervisor_ns=now_ns // 14,
        idle_ns=now_ns // 2,
        timer_ns=now_ns + 4_000_000,
        disassembly=tuple(insns),
        stack=stack,
    )


def memory_view(view: DomainView) -> MemoryView:
    """A Linux guest's frames: kernel low, page tables in clumps, the special pages on top, a balloon that took some."""
    frames = max(view.maxmem_kib // 4, 64)
    block = max(frames // 4096, 1)
    code = {name: value for value, name in enumerate(FRAME_TYPES)}
    rng = random.Random(view.domid)
    types = bytearray([code["ram"]]) * (frames // block)
    total = len(types)
    for at in range(total // 16, total // 6):
        types[at] = code["writable"]
    for _ in range(max(total // 60, 1)):
        at = rng.randrange(total)
        for offset in range(rng.randrange(1, 24)):
            types[(at + offset) % total] = code["writable"]
    for _ in range(max(total // 150, 1)):
        at = rng.randrange(total - 6)
        count = rng.randrange(1, 5)
        types[at : at + count] = bytes([code["l1"]]) * count
    for name, share in (("l2", 0.31), ("l2", 0.62), ("l3", 0.311), ("l4", 0.312), ("seg_desc", 0.052), ("grant", 0.44)):
        types[int(total * share)] = code[name]
    types = types[:total]
    for at in range(int(total * 0.82), int(total * 0.92)):
        types[at] = code["hole"]
    types[-4:] = bytes(code[name] for name in ("shared_info", "start_info", "console", "xenstore"))
    counts: dict[str, int] = {}
    for value in types:
        counts[FRAME_TYPES[value]] = counts.get(FRAME_TYPES[value], 0) + block
    held = frames - counts.get("hole", 0)
    spread = rng.randrange(frames) | 1
    sample = []
    for pfn in range(0, frames, max(frames // 3000, 1)):
        mfn = (pfn + frames // 3) % frames if pfn < frames // 2 else (pfn * spread + 77) % frames
        if types[min(pfn // block, total - 1)] != code["hole"]:
            sample.append((pfn, mfn))
    return MemoryView(
        current=held,
        target=held,
        minimum=frames // 4,
        maximum=frames,
        types=bytes(types),
        block=block,
        type_counts=counts,
        p2m_sample=tuple(sample),
        nr_pfns=frames,
        nr_mfns=frames,
        dirty=321,
    )


def ring_views(view: DomainView, transcript: bytes, now_ns: int) -> tuple[RingView, ...]:
    """Console both ways with output in flight, xenstore, a disk with all three arcs and a network card."""
    step = now_ns // STEP_NS
    out = 5200 + len(transcript) + step * 83
    sectors = tuple(f"{'write' if i % 5 == 3 else 'read'} sector {204800 + 64 * i} {1 + i % 8} segs gref {8 + i}" for i in range(32))
    said = transcript[-300:] + b"[   12.%06d] eth0: link up\r\n" % (step % 1_000_000)
    keys, asked, told = b"uname -a\rls /proc\r\x1b[A\r", b"\x01\0\0\0device/vbd\0", b"\x01\0\0\x0051712\0"
    packets = tuple(f"{60 + i} bytes gref {100 + i}" for i in range(40))

    def pipe(name: str, kind: str, size: int, prod: int, cons: int, recent: bytes, port: int) -> RingView:
        gfn = 0xFFFE if port == 2 else 0xFFFF
        return RingView(name=name, kind=kind, size=size, req_prod=prod, req_cons=cons, recent=recent, gfn=gfn, port=port)

    return (
        pipe("console out", "console-out", 2048, out + 300, out, said, 2),
        pipe("console in", "console-in", 1024, 1311, 1311, keys, 2),
        pipe("xenstore requests", "xenstore-req", 1024, 2210, 2210, asked, 1),
        pipe("xenstore answers", "xenstore-rsp", 1024, 3907, 3907, told, 1),
        RingView(
            name="xvda",
            kind="block",
            size=32,
            req_prod=1000 + step,
            req_cons=996 + step,
            rsp_prod=988 + step,
            rsp_cons=985 + step,
            slots=sectors,
            gfn=0x123,
            port=12,
            device="xvda",
            age_ns=3_400_000,
        ),
        RingView(
            name="vif0 tx",
            kind="net-tx",
            size=256,
            req_prod=512,
            req_cons=500,
            rsp_prod=500,
            rsp_cons=500,
            slots=packets,
            stalled=True,
            gfn=0x124,
            port=13,
            device="vif4.0",
            age_ns=2_100_000_000,
        ),
    )


def port_views(view: DomainView, vcpus: int, now_ns: int) -> tuple[PortView, ...]:
    """The channels of a booted Linux: xenstore, console, and per vCPU timer, reschedule, call and debug."""
    seconds = now_ns // STEP_NS / 4.0
    ports = [
        PortView(port=0, kind="reserved"),
        PortView(port=1, kind="interdomain", peer=0, bound=f"domain 0 port {10 + view.domid * 2} (xenstore)", count=44 + int(seconds)),
        PortView(
            port=2,
            kind="interdomain",
            peer=0,
            bound=f"domain 0 port {11 + view.domid * 2} (console)",
            pending=True,
            count=310 + int(seconds * 7),
        ),
    ]
    for vcpu in range(vcpus):
        base = 3 + vcpu * 5
        ports += [
            PortView(port=base, kind="virq", bound="VIRQ_TIMER", vcpu=vcpu, count=int(seconds * (250 - 60 * vcpu))),
            PortView(port=base + 1, kind="ipi", bound=f"vCPU {vcpu} reschedule", vcpu=vcpu, count=int(seconds * 31)),
            PortView(port=base + 2, kind="ipi", bound=f"vCPU {vcpu} call function", vcpu=vcpu, count=int(seconds * 3)),
            PortView(port=base + 3, kind="virq", bound="VIRQ_DEBUG", vcpu=vcpu, masked=True),
            PortView(port=base + 4, kind="ipi", bound=f"vCPU {vcpu} spinlock kicker", vcpu=vcpu, masked=True, count=int(seconds / 2)),
        ]
    ports += [
        PortView(port=20, kind="interdomain", bound="domain 0 port 31 (xvda)", peer=0, count=int(seconds * 19)),
        PortView(port=21, kind="interdomain", bound="domain 0 port 32 (vif0)", peer=0, pending=True, masked=True, count=512),
        PortView(port=22, kind="unbound", bound="for domain 0", peer=0),
    ]
    return tuple(ports)


def trace_view(since: int, now_ns: int) -> TraceView:
    """A busy guest: 40 entries a second of the fake clock."""
    seq = now_ns // 25_000_000
    lines = []
    for n in range(max(since + 1, seq - 120), seq + 1):
        kind, name, detail, result, reason, cost = CALLS[(n * 5 + n // 14) % len(CALLS)]
        lines.append(
            TraceLine(seq=n, vtime_ns=n * 25_000_000 + n % 977 * 1000, vcpu=n // 3 % 2, kind=kind, name=name, detail=detail,
                      result=result, reason=reason, cost_ns=cost + n % 13 * 90 if cost else 0)
        )  # fmt: skip
    histogram = {
        "sched_op": (0,) * 9 + (4, 860, 122, 33, 4),
        "mmu_update": (0,) * 11 + (90, 3105, 1204, 310, 25, 3),
        "iret": (0,) * 10 + (5140, 912, 40),
        "multicall": (0,) * 11 + (920, 433, 22, 1),
        "update_va_mapping": (0,) * 12 + (640, 88, 4),
        "event_channel_op": (0,) * 10 + (31, 614, 76),
    }
    return TraceView(lines=tuple(lines), seq=seq, histogram=histogram, totals={name: sum(row) for name, row in histogram.items()})


def config_of(view: DomainView) -> dict[str, str]:
    return {
        "name": view.name,
        "type": "pv",
        "kernel": "/boot/vmlinuz-6.1.0-56-cloud-amd64",
        "ramdisk": "guests/linux/initramfs.cpio.gz",
        "extra": "console=hvc0 earlyprintk=xen loglevel=7 panic=5 rdinit=/init xen_blkfront.max_ring_page_order=0",
        "memory": str(view.mem_kib // 1024),
        "maxmem": str(view.maxmem_kib // 1024),
        "vcpus": str(len(view.vcpus)),
        "on_poweroff": "destroy",
        "on_reboot": "restart",
        "on_crash": "preserve",
        "uuid": view.uuid,
    }


def xenstore_of(view: DomainView) -> tuple[tuple[str, str], ...]:
    root = f"/local/domain/{view.domid}"
    return (
        (f"{root}/name", view.name),
        (f"{root}/domid", str(view.domid)),
        (f"{root}/vm", f"/vm/{view.uuid}"),
        (f"{root}/memory/static-max", str(view.maxmem_kib)),
        (f"{root}/memory/target", str(view.mem_kib)),
        (f"{root}/console/ring-ref", "65534"),
        (f"{root}/console/port", "2"),
        (f"{root}/console/type", "xenconsoled"),
        (f"{root}/console/limit", "1048576"),
        (f"{root}/device/vbd/51712/backend", f"/local/domain/0/backend/vbd/{view.domid}/51712"),
        (f"{root}/device/vbd/51712/backend-id", "0"),
        (f"{root}/device/vbd/51712/state", "4"),
        (f"{root}/device/vbd/51712/ring-ref", "8"),
        (f"{root}/device/vbd/51712/event-channel", "20"),
        (f"{root}/control/shutdown", ""),
        (f"{root}/control/feature-poweroff", "1"),
    )


def crash_view(view: DomainView, transcript: bytes) -> CrashView:
    vcpu = vcpu_view(0, "d", 60 * STEP_NS)
    return CrashView(reason=view.crash or "panic", vcpu=vcpu, console_tail=transcript[-400:], time_unix=view.started_unix + 12.5)


def snapshot_views(domid: int) -> list[SnapshotView]:
    """Three snapshots: two taken, one kept by a restore."""
    screen = "[    1.204411] Run /init as init process\n~ # md5sum /bin/busybox\n{}  /bin/busybox\n~ # "
    rows = (("fresh", 12, 9400, False), ("before-upgrade", 34, 2210, False), ("before restore of fresh", 51, 870, True))
    return [
        SnapshotView(domid=domid, name=name, taken_unix=START_UNIX + at, vtime_ns=at * 10**9, pages=pages, automatic=automatic,
                     screen=screen.format(f"{at:032x}"))
        for name, at, pages, automatic in rows
    ]  # fmt: skip


class RichEngine(FakeEngine):
    """The fake engine with details as above; a domain that is gone is refused and has an obituary."""

    def __init__(self) -> None:
        super().__init__()
        self.obituaries: dict[int, ObituaryView] = {}
        self.asked: list[tuple[int, tuple[str, ...]]] = []
        for domid in (3, 4):
            self.domains[domid].snapshots = snapshot_views(domid)

    async def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        self._alive()
        self.asked.append((domid, parts))
        domain = self.domains.get(domid)
        if domain is None:
            raise UserError(f"domain {domid} does not exist")
        view, now, transcript = domain.view(self.now_ns, self.cpus), self.now_ns, bytes(domain.transcript)
        vcpus = tuple(vcpu_view(v.vcpu, v.state, now) for v in view.vcpus)
        return DomainDetail(
            domain=view,
            vcpus=vcpus if "vcpus" in parts else (),
            memory=memory_view(view) if "memory" in parts else None,
            rings=ring_views(view, transcript, now) if "rings" in parts else (),
            flows=flow_views(now) if "rings" in parts else (),
            ports=port_views(view, len(vcpus), now) if "ports" in parts else (),
            trace=trace_view(since_trace, now) if "trace" in parts else None,
            config=config_of(view) if "config" in parts else {},
            xenstore=xenstore_of(view) if "xenstore" in parts else (),
            crash=crash_view(view, transcript) if "crash" in parts and view.crash else None,
            grants=grants_view(domid) if "grants" in parts else None,
            refusals=refusal_views(now) if "refusals" in parts else (),
            runqueue=run_queue(now) if "runqueue" in parts and not domid else None,
            handshakes=handshake_views(domid, now) if "handshakes" in parts else (),
            links=link_views(list(self.domains), now) if "links" in parts and not domid else (),
        )

    async def frame(self, domid: int, pfn: int) -> FrameView:
        self._alive()
        return frame_view(pfn)

    async def networks(self) -> NetworksView:
        self._alive()
        return networks_view(self.now_ns)

    async def packets(self, network: str, source: str = "", since: int = 0, most: int = 100) -> PacketTail:
        self._alive()
        return packet_tail(network, source, since, most)

    async def obituary(self, domid: int) -> ObituaryView | None:
        self._alive()
        return self.obituaries.get(domid)

    def end(self, domid: int, reason: str, *, crash: str = "", restarted_as: int = -1) -> None:
        """A domain goes, as one does whose on_crash or on_poweroff says destroy or restart."""
        domain = self.domains.pop(domid)
        view = msgspec.structs.replace(domain.view(self.now_ns, self.cpus), shutdown=reason, crash=crash)
        report = crash_view(view, bytes(domain.transcript)) if crash else None
        self.obituaries[domid] = ObituaryView(domain=view, reason=reason, crash=report, restarted_as=restarted_as)
        self._wake()
        self._tell("gone", domid)
