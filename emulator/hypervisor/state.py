"""A domain's state outside of its memory, saved and loaded as plain values: the processor, the vCPUs, events, timers, frames' types.

Taken between two slices. With the memory's bytes it is the whole domain: loaded into the same build it runs on as if nothing had been.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emulator.abi.xen import VMASST_TYPE_m2p_strict
from emulator.cpu import native
from emulator.hypervisor.grants.peers import forget_asks
from emulator.hypervisor.memory.frames import Saved as FrameState
from emulator.hypervisor.memory.reservation import Saved as ReservationState

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

VERSION: Final = 8
_VCPU_FIELDS: Final = ("info", "kernel_mode", "kernel_sp", "kernel_ss", "cr3_kernel", "cr3_user", "gs_base_other", "handlers", "debug",
                       "cr4", "iopl", "io_rights", "io_bitmap", "io_ports", "gdt_frames", "gdt_entries", "ldt_base", "ldt_entries",
                       "ldt_frames", "blocked", "up", "initialised", "context", "nmi_pending", "nmi_masked", "polled", "poll_deadline", "timers",
                       "runstate_area", "time_area")  # fmt: skip
_DOMAIN_FIELDS: Final = ("vm_assist", "ended", "crash_reason", "shutdown_code")


@dataclass(frozen=True)
class DomainState:
    """See the module. `version` is checked by `load_domain`."""

    version: int
    core: bytes
    io_allowed: int
    clock: tuple[int, int]
    frames: FrameState
    vcpus: tuple[dict[str, Any], ...]
    events: tuple[Any, ...]
    reservation: ReservationState
    grants: dict[str, Any]
    mappings: dict[str, Any]
    time: Any
    rotation: dict[str, Any]
    domain: dict[str, Any]


def _vcpu(vcpu: Vcpu) -> dict[str, Any]:
    return {name: copy.deepcopy(getattr(vcpu, name)) for name in _VCPU_FIELDS}


def save_domain(domain: Domain) -> DomainState:
    return DomainState(
        VERSION, domain.core.save(), domain.core.control[native.IO_ALLOWED], domain.clock.save(), domain.frames.save(),
        tuple(_vcpu(vcpu) for vcpu in domain.vcpus), domain.events.save(),
        domain.reservation.save(), domain.grants.save(), domain.mappings.save(), domain.time.save(), domain.rotation.save(),
        {name: copy.deepcopy(getattr(domain, name)) for name in _DOMAIN_FIELDS},
    )  # fmt: skip


def cannot_load(domain: Domain, state: DomainState) -> str:
    """Why the domain cannot go back to `state`, empty when it can: what other domains hold of it, and it of them, is not its own to
    turn back."""
    if reason := domain.mappings.cannot_load(state.mappings) or domain.grants.cannot_load(state.grants):
        return reason
    if domain.events.abroad() != domain.events.abroad_in(state.events):
        return "its event channels to other domains are others now than they were then"
    return ""


def claim_of(state: DomainState) -> int:
    """Frames that the domain owned then, or might take."""
    return max(state.reservation[0], state.reservation[1])


def load_domain(domain: Domain, state: DomainState) -> None:
    """The memory must hold what it held when `state` was saved. Translations are the caller's to drop."""
    if state.version != VERSION:
        raise ValueError(f"domain state of version {state.version}, {VERSION} is known")
    for vcpu in domain.vcpus:
        forget_asks(vcpu)
    domain.core.load(state.core)
    domain.core.control[native.IO_ALLOWED] = state.io_allowed
    domain.clock.load(state.clock)
    domain.frames.load(state.frames)
    for vcpu, saved in zip(domain.vcpus, state.vcpus, strict=True):
        for name, value in saved.items():
            setattr(vcpu, name, copy.deepcopy(value))
        vcpu.forget_taught()
    domain.events.load(state.events)
    domain.reservation.load(state.reservation)
    domain.grants.load(state.grants)
    domain.mappings.load(state.mappings)
    domain.foreign_writes.clear()
    for mfn in (*domain.grants.written_by_guests(), *domain.mappings.shown()):
        domain.foreign_writes.add(mfn)
    domain.time.load(state.time)
    domain.rotation.load(state.rotation)
    for name, value in state.domain.items():
        setattr(domain, name, copy.deepcopy(value))
    domain.tables.m2p_strict = bool(domain.vm_assist >> VMASST_TYPE_m2p_strict & 1)
