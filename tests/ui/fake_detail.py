"""Details of a fake domain: every part of a DomainDetail filled with plausible values that move with the clock."""

from __future__ import annotations

from emulator.control.memoryviews import FRAME_TYPES, MemoryView
from emulator.control.views import (
    CrashView,
    DomainDetail,
    DomainView,
    Insn,
    PortView,
    RingView,
    TraceLine,
    TraceView,
    VcpuView,
)

TEXT = 0xFFFFFFFF81000000
CODE = (
    (b"\x55", "push rbp"),
    (b"\x48\x89\xe5", "mov rbp, rsp"),
    (b"\xb8\x1d\x00\x00\x00", "mov eax, 0x1d"),
    (b"\x0f\x05", "syscall"),
    (b"\x85\xc0", "test eax, eax"),
    (b"\x75\x07", "jne 0xffffffff81000016"),
    (b"\x5d", "pop rbp"),
    (b"\xc3", "ret"),
    (b"\x90", "nop"),
)
CALLS = (
    ("hypercall", "sched_op", "block", "0", ""),
    ("hypercall", "event_channel_op", "send port 3", "0", ""),
    (
        "hypercall",
        "mmu_update",
        "1 update: L1 entry 0x1067",
        "-EINVAL",
        "L1 entry 0x1067 maps a page-table frame writable (PGT_l2_table)",
    ),
    ("trap", "#PF", "error 0x2 at 0xffff888000010000", "bounced", ""),
    ("event", "VIRQ_TIMER", "port 1", "upcall", ""),
    ("hypercall", "set_timer_op", "deadline 61.250 s", "0", ""),
)


def _vcpu(index: int, state: str, now_ns: int) -> VcpuView:
    step = now_ns // 250_000_000
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
    regs = {name: (0x1111 * (i + 1)) << 16 for i, name in enumerate(names)}
    regs["rax"] += step
    regs["rcx"] += step * 3
    regs.update(
        rip=TEXT + step % 3,
        rflags=0x246,
        cs=0xE033,
        ss=0xE02B,
        ds=0,
        es=0,
        fs=0,
        gs=0,
        fs_base=0,
        gs_base=0xFFFF88800F800000,
        gs_base_user=0,
        cr0=0x8005003B,
        cr2=0x7F00DEADB000,
        cr3=0x1A44000,
        cr4=0x2660,
    )
    regs["rsp"] = 0xFFFFFFFF82003E98
    insns, address = [], TEXT
    for data, text in CODE:
        insns.append(Insn(address=address, data=data, text=text))
        address += len(data)
    return VcpuView(
        vcpu=index,
        state=state,
        cpu=index % 2,
        mode="kernel" if index == 0 else "user",
        registers=regs,
        upcall_pending=step % 2 == 1,
        upcall_mask=step % 4 == 0,
        last_trap="#PF error 0x2 at 0xffff888000010000",
        last_hypercall="sched_op(block) = 0",
        guest_ns=now_ns // 3,
        hypervisor_ns=now_ns // 20,
        idle_ns=now_ns // 2,
        timer_ns=now_ns + 4_000_000,
        disassembly=tuple(insns),
        stack=b"".join((TEXT + 16 * i).to_bytes(8, "little") for i in range(32)),
    )


def _memory(view: DomainView) -> MemoryView:
    frames = max(view.mem_kib // 4, 1)
    blocks = min(frames, 2048)
    code = {name: i for i, name in enumerate(FRAME_TYPES)}
    types = bytearray([code["ram"]]) * blocks
    for i in range(blocks):
        if i < blocks // 10:
            types[i] = code["writable"]
        elif i % 97 == 5:
            types[i] = code["l1"]
    types[-8:] = bytes(code[n] for n in ("l2", "l3", "l4", "shared_info", "start_info", "console", "xenstore", "grant"))
    counts: dict[str, int] = {}
    for value in types:
        counts[FRAME_TYPES[value]] = counts.get(FRAME_TYPES[value], 0) + frames // blocks
    sample = tuple((pfn, (pfn * 2654435761 >> 3) % frames) for pfn in range(0, frames, max(frames // 512, 1)))
    return MemoryView(
        current=frames,
        target=frames,
        maximum=view.maxmem_kib // 4,
        types=bytes(types),
        block=max(frames // blocks, 1),
        type_counts=counts,
        p2m_sample=sample,
        nr_pfns=frames,
        nr_mfns=frames,
        dirty=321,
    )


def _rings(view: DomainView, transcript: bytes, now_ns: int) -> tuple[RingView, ...]:
    step = now_ns // 250_000_000
    out = len(transcript)
    slots = tuple(f"read sector {64 * i + step} 8 segs gref {8 + i}" for i in range(32))
    return (
        RingView(
            name="console in",
            kind="console-in",
            size=1024,
            req_prod=view.traffic.console_in,
            req_cons=view.traffic.console_in,
            recent=b"help\r",
            gfn=0x7FE,
            port=2,
        ),
        RingView(
            name="console out",
            kind="console-out",
            size=2048,
            req_prod=out + step % 40,
            req_cons=out,
            recent=transcript[-256:],
            gfn=0x7FE,
            port=2,
        ),
        RingView(
            name="xenstore requests",
            kind="xenstore-req",
            size=1024,
            req_prod=96,
            req_cons=96,
            recent=b"device/vbd",
            gfn=0x7FF,
            port=1,
        ),
        RingView(
            name="xvda",
            kind="block",
            size=32,
            req_prod=1000 + step,
            req_cons=998 + step,
            rsp_prod=996 + step,
            rsp_cons=995 + step,
            slots=slots,
            stalled=view.domid == 4,
            gfn=0x123,
            port=5,
        ),
    )


def _trace(since: int, now_ns: int) -> TraceView:
    seq = now_ns // 10_000_000
    lines = []
    for n in range(max(since + 1, seq - 50), seq + 1):
        kind, name, detail, result, reason = CALLS[n % len(CALLS)]
        lines.append(
            TraceLine(
                seq=n,
                vtime_ns=n * 10_000_000,
                vcpu=n % 2,
                kind=kind,
                name=name,
                detail=detail,
                result=result,
                reason=reason,
                cost_ns=900 + 137 * (n % 40),
            )
        )
    histogram = {
        "sched_op": (0,) * 9 + (4, 60, 22, 3),
        "mmu_update": (0,) * 10 + (9, 31, 12, 5, 1),
        "event_channel_op": (0,) * 9 + (1, 14, 6),
    }
    return TraceView(
        lines=tuple(lines),
        seq=seq,
        histogram=histogram,
        totals={"sched_op": seq, "mmu_update": seq // 3, "event_channel_op": seq // 2},
    )


def fake_detail(view: DomainView, transcript: bytes, parts: tuple[str, ...], since_trace: int, now_ns: int) -> DomainDetail:
    """The parts asked for, of this domain, at this time."""
    vcpus = tuple(_vcpu(v.vcpu, v.state, now_ns) for v in view.vcpus)
    ports = (
        PortView(port=0, kind="reserved"),
        PortView(port=1, kind="interdomain", bound="domain 0 port 7 (xenstore)", count=44),
        PortView(port=2, kind="interdomain", bound="domain 0 port 8 (console)", pending=True, count=len(transcript)),
        PortView(port=3, kind="virq", bound="VIRQ_TIMER", count=view.events),
        PortView(port=4, kind="ipi", vcpu=len(vcpus) - 1, bound="vCPU 1", masked=True, count=9),
    )
    crash = None
    if view.crash:
        crash = CrashView(reason=view.crash, vcpu=vcpus[0], console_tail=transcript[-400:], time_unix=view.started_unix + 12.5)
    return DomainDetail(
        domain=view,
        vcpus=vcpus if "vcpus" in parts else (),
        memory=_memory(view) if "memory" in parts else None,
        rings=_rings(view, transcript, now_ns) if "rings" in parts else (),
        ports=ports if "ports" in parts else (),
        trace=_trace(since_trace, now_ns) if "trace" in parts else None,
        config={
            "name": view.name,
            "kernel": f"guests/{view.name}.elf",
            "memory": str(view.mem_kib // 1024),
            "vcpus": str(len(vcpus)),
            "on_crash": "preserve",
        }
        if "config" in parts
        else {},
        xenstore=((f"/local/domain/{view.domid}/name", view.name), (f"/local/domain/{view.domid}/console/ring-ref", "2046"))
        if "xenstore" in parts
        else (),
        crash=crash if "crash" in parts else None,
    )
