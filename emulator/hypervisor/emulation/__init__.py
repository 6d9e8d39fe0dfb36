"""Emulation of what a PV guest may not execute itself: privileged instructions, forced CPUID, stores to page tables."""

from __future__ import annotations

from emulator.hypervisor.emulation.emulator import Emulator
from emulator.hypervisor.emulation.state import EmulationState, GuestPageFault, Kind, Outcome
from emulator.hypervisor.emulation.store import WriteEntry

__all__ = ["EmulationState", "Emulator", "GuestPageFault", "Kind", "Outcome", "WriteEntry"]
