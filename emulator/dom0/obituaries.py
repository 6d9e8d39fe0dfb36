"""What the toolstack keeps of domains that crashed or are gone."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.dom0.config import DomainConfig
from emulator.dom0.transcript import Transcript
from emulator.hypervisor.inspect import VcpuState


@dataclass(frozen=True)
class Autopsy:
    """How a crashed domain lay when it crashed."""

    reason: str
    vcpu: VcpuState
    last_trap: str
    last_hypercall: str
    time_unix: float


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
