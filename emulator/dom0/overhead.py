"""What domains cost beside their own memory: the engine's resident memory by cause."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from emulator.dom0.guest import Guest
from emulator.machine import footprint


@dataclass(frozen=True)
class Overhead:
    """KiB. `engine`: all that is resident; `empty`: the same before the first domain. `memory`: the domains' frames, what the hypervisor
    keeps among them (page tables of its own, the M2P), and what their snapshots hold. `translated`: code for those that are `awake`."""

    engine: int
    empty: int
    memory: int
    translated: int
    domains: int
    awake: int

    @property
    def rest(self) -> int:
        """Instances of Unicorn, tables of frames, rings, back ends, transcripts."""
        return self.engine - self.empty - self.memory - self.translated

    @property
    def each(self) -> float:
        """KiB that a domain costs beside its memory, on the average."""
        return (self.translated + self.rest) / max(self.domains, 1)


def memory_kib(guest: Guest) -> int:
    """What the host has given for a domain's machine memory: of its file, and as copies since it was snapshotted."""
    memory = guest.domain.memory
    copies = max(guest.album.dirty(), 0) * 4 + sum(kept.contents.nbytes for kept in guest.album.snapshots()) // 1024
    return os.fstat(memory.file.fd).st_blocks // 2 + copies


def measure(guests: Iterable[Guest], empty_kib: int) -> Overhead:
    """`empty_kib`: what the engine took before the first domain."""
    known = tuple(guests)
    return Overhead(footprint.resident_kib(), empty_kib, sum(map(memory_kib, known)), footprint.translated_kib(), len(known),
                    sum(not guest.domain.core.resting for guest in known))  # fmt: skip
