"""Looking at a domain between two slices: plain values for consoles and crash reports. Nothing here changes what the guest sees.

Call these as questions (`Domain.ask`), or on a domain that nobody holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emulator.abi.xen import VI_CR2
from emulator.cpu.core import CS, DS, ES, FS, GS, SS
from emulator.hypervisor.emulation.control import fix_cr4
from emulator.hypervisor.events import INTERDOMAIN, KINDS, UNBOUND
from emulator.hypervisor.memory.frames import FREE

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
STACK_BYTES, CODE_BYTES = 256, 64


@dataclass(frozen=True)
class VcpuState:
    """One vCPU: registers by name, code at RIP and stack from RSP as far as they can be read."""

    number: int
    registers: dict[str, int]
    kernel_mode: bool
    blocked: bool
    upcall_pending: bool
    upcall_mask: bool
    timer_ns: int
    code: bytes
    stack: bytes


@dataclass(frozen=True)
class PortState:
    port: int
    kind: str
    bound: str
    vcpu: int
    pending: bool
    masked: bool
    count: int
    peer: int


def readable(domain: Domain, va: int, size: int) -> bytes:
    """What can be read from `va`, up to the first page that cannot, without leaving an accessed bit."""
    data = b""
    while len(data) < size:
        at = va + len(data)
        index = domain.guest.entry_index(at)
        entry = domain.memory.words[index] if index >= 0 else 0
        if not entry & 1 or not 0 <= at < 1 << 64:
            break
        take = min(4096 - (at & 0xFFF), size - len(data))
        start = entry & 0x000FFFFFFFFFF000 | at & 0xFFF
        data += bytes(domain.memory.bytes[start : start + take])
    return data


def vcpu_state(domain: Domain, vcpu: Vcpu) -> VcpuState:
    with domain.rotation.borrowed(vcpu):
        return _loaded_state(domain, vcpu)


def _loaded_state(domain: Domain, vcpu: Vcpu) -> VcpuState:
    core = domain.core
    registers = {name: core.regs[index] for index, name in enumerate(_NAMES)}
    registers |= {"rip": core.rip, "rflags": core.rflags, "cr0": 0x80050033 | (8 if core.task_switched else 0),
                  "cr2": domain.memory.words[(vcpu.info + VI_CR2) >> 3], "cr3": core.cr3, "cr4": fix_cr4(vcpu.cr4)}  # fmt: skip
    for name, number in (("cs", CS), ("ss", SS), ("ds", DS), ("es", ES), ("fs", FS), ("gs", GS)):
        registers[name] = core.segment(number)[0]
    registers |= {"fs_base": core.segment(FS)[1], "gs_base": core.segment(GS)[1], "gs_base_user": vcpu.gs_base_other}
    return VcpuState(vcpu.number, registers, vcpu.kernel_mode, vcpu.blocked, vcpu.upcall_pending, vcpu.upcall_masked, vcpu.timers.singleshot,
                     readable(domain, core.rip, CODE_BYTES), readable(domain, core.regs[4], STACK_BYTES))  # fmt: skip


def port_states(domain: Domain) -> list[PortState]:
    events = domain.events
    return [PortState(number, KINDS[port.kind], events.describe(port), port.vcpu, events.pending(number), events.masked(number), port.count,
                      port.remote_domain if port.kind in (INTERDOMAIN, UNBOUND) else -1)
            for number, port in sorted(events.ports.items())]  # fmt: skip


def frame_kinds(domain: Domain) -> NDArray[np.uint8]:
    """Per PFN: 0 hole (not populated), else 1 + the frame's type (frames.TYPE_NAMES)."""
    mfns = domain.p2m.astype(np.int64)
    kinds = domain.frames.types[mfns] + np.uint8(1)
    kinds[domain.frames.owners[mfns] == FREE] = 0
    return kinds
