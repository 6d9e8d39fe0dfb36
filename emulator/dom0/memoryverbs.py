"""mem-set and mem-max: how much memory a running domain may have, as xl has them; mem-min, which bounds the balloon policy alone.
Callable from any thread; UserError.

A domain's own balloon driver gives frames back or takes them; Domain-0 can only ask (memory/target in xenstore) and set the bound
that the hypervisor keeps (libxl_set_memory_target with enforce, libxl_domain_setmaxmem). The host's pool sets aside what a domain
may take before the domain hears of it, and gets back what the domain gives frame by frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.dom0.config import LEAST_MEMORY_MIB
from emulator.errors import UserError
from emulator.hypervisor.mailbox import ToBackend
from emulator.hypervisor.memory.reservation import SetMaximum

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack
    from emulator.dom0.xenstore import Store
    from emulator.machine.pool import MemoryPool

LEAST_KIB: Final = LEAST_MEMORY_MIB * 1024
_FRAME_KIB: Final = 4


class DomainMemory:
    """One domain's share of the pool. Made when the domain is; its holder and the tools both come here."""

    def __init__(self, guest: Guest, pool: MemoryPool) -> None:
        self._guest, self._pool = guest, pool
        self.most = guest.domain.reservation.e820_frames
        """Frames that mem-set may go to (memory/static-max)."""
        self.target = guest.domain.reservation.owned
        self.least = self._default_least()
        """Frames that the balloon policy leaves the domain (XAPI's memory-dynamic-min); mem-set is bound by nothing but LEAST_KIB."""
        self._promised = 0  # frames set aside for a target that the domain has not heard of yet
        guest.domain.reservation.on_claim = self._claim

    def _default_least(self) -> int:
        config = self._guest.config
        kib = config.minmem_mib * 1024 if config.minmem_mib is not None else config.memory_mib * 1024 // 2
        return max(kib, LEAST_KIB) // _FRAME_KIB

    def _claim(self) -> None:
        """What the domain owns or may take has changed. Runs in its holder."""
        reservation = self._guest.domain.reservation
        if reservation.maximum == self._promised:
            self._promised = 0
        if not self._promised:
            self.target = reservation.maximum  # a restore may have brought another
        self._pool.resize(self._guest.domid, max(reservation.claim, self._promised))

    @property
    def owned(self) -> int:
        """Frames that the domain has now, by its last word."""
        return self._guest.domain.reservation.owned

    def make_room(self, frames: int) -> None:
        """Before the domain goes back to a time when it claimed `frames`. Raises UserError."""
        if frames > self._pool.claimed(self._guest.domid):
            self._pool.resize(self._guest.domid, frames)

    def set(self, kib: int) -> None:
        """mem-set. Raises UserError for less than a kernel can live in, more than the domain may have, more than the host has."""
        frames = kib // _FRAME_KIB
        if kib < LEAST_KIB:
            raise UserError(f"{kib} KiB will not do as a domain's memory", fix=f"at least {LEAST_KIB >> 10} MiB")
        if frames > self.most:
            raise UserError(f"{kib >> 10} MiB is more than the domain may have",
                            why=f"memory_dynamic_max must be less than or equal to memory_static_max, {self.most // 256} MiB",
                            fix="set maxmem= in its configuration")  # fmt: skip
        if frames > self._pool.claimed(self._guest.domid):
            self._pool.resize(self._guest.domid, frames)
            self._promised = frames
        self.target = frames
        domid = self._guest.domid
        self._guest.domain.post(SetMaximum(frames))
        self._guest.domain.post(ToBackend("xenstore", f"/local/domain/{domid}/memory/target\0{frames * _FRAME_KIB}".encode()))

    def set_least(self, kib: int) -> None:
        """mem-min. Raises UserError for less than a kernel can live in, and for more than the domain may have."""
        if not LEAST_KIB <= kib <= self.most * _FRAME_KIB:
            raise UserError(f"{kib} KiB will not do as a domain's minimum", fix=f"{LEAST_KIB >> 10} to {self.most // 256} MiB")
        self.least = kib // _FRAME_KIB

    def set_most(self, kib: int, store: Store) -> None:
        """mem-max. Raises UserError for less than the present target, and for more than the domain was created for."""
        frames, built = kib // _FRAME_KIB, self._guest.domain.reservation.e820_frames
        if frames < self.target:
            raise UserError(f"{kib >> 10} MiB is less than the domain's present target", why=f"that is {self.target // 256} MiB", fix="mem-set first")
        if frames > built:
            raise UserError(f"{kib >> 10} MiB is more than the domain was created for", why=f"its address space has {built // 256} MiB",
                            fix="set maxmem= in its configuration")  # fmt: skip
        self.most = frames
        store.write(f"/local/domain/{self._guest.domid}/memory/static-max", str(frames * _FRAME_KIB).encode())


def set_minimum(tools: Toolstack, domid: int, kib: int) -> None:
    """mem-min on a host."""
    tools.guest(domid).memory.set_least(kib)
    tools.say("info", domid, f"memory minimum set to {kib >> 10} MiB")
    tools.tell("state", domid)
