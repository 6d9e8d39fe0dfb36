"""What a domain is made of, what is counted of it, and where its words go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from emulator.abi.xen import HYPERCALLS


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """What a domain is made of. `wallclock_ns`: Unix time at its creation, part of the recording."""

    domid: int
    name: str
    uuid: bytes
    frames: int
    max_frames: int
    vcpus: int = 1
    wallclock_ns: int = 0
    translation_buffer: int = 32 << 20


@dataclass(slots=True)
class Stats:
    """Counters since the domain's creation; read by anyone, written by the holder."""

    hypercalls: int = 0
    by_number: list[int] = field(default_factory=lambda: [0] * len(HYPERCALLS))
    system_calls: int = 0
    traps: int = 0
    page_faults: int = 0
    table_writes: int = 0
    upcalls: int = 0
    mmu_entries: int = 0
    slices: int = 0
    cpu_ns: int = 0


@dataclass(slots=True)
class Sinks:
    """Where what a domain says goes; set by Domain-0."""

    console_io: Callable[[bytes], None] = lambda data: None
    log: Callable[[str, str], None] = lambda level, text: None
