"""What the toolstack keeps of domains that crashed or are gone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.dom0.config import DomainConfig
from emulator.dom0.transcript import Transcript
from emulator.hypervisor.inspect import VcpuState, vcpu_state

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


@dataclass(frozen=True)
class Autopsy:
    """How a crashed domain lay when it crashed."""

    reason: str
    vcpu: VcpuState
    last_trap: str
    last_hypercall: str
    time_unix: float


def examined(domain: Domain) -> Autopsy:
    """A question of a crashed domain."""
    vcpu = domain.current
    return Autopsy(domain.crash_reason or "the guest asked for it (SHUTDOWN_crash)", vcpu_state(domain, vcpu), vcpu.accounting.last_trap,
                   vcpu.last_hypercall, time.time())  # fmt: skip


@dataclass
class Obituary:
    """What is kept of a domain that is gone."""

    domid: int
    config: DomainConfig
    reason: str
    transcript: Transcript
    autopsy: Autopsy | None
    restarted_as: int
    last: object = None  # the last view, made by whoever asked for it (see Toolstack.last_view)
