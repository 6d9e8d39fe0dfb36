"""Snapshots of a running domain, taken and put back in place without its knowledge.

The domain's memory file is the base: at the first snapshot it is frozen, and the same addresses are mapped privately over it, so
that the guest's writes go to pages of its own (copy on write by the kernel, found again by /proc/self/pagemap). A later snapshot
copies the pages that differ from the base; a restore maps the base anew and lays such a copy over it. Frame numbers never change,
so the guest needs to know nothing but that the clock has moved.

Runs in the domain's holder, between two slices.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulator.errors import UserError
from emulator.hypervisor.mailbox import Stopped
from emulator.hypervisor.state import DomainState, cannot_load, claim_of, load_domain, save_domain

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest

MAX_SNAPSHOTS = 64
MAX_AUTOMATIC = 16
"""Of those, how many presents are kept that a restore left: each may hold megabytes of its own."""
_MANY_FRAMES = 5000  # above this, forgetting all translations is cheaper than frame by frame (2 µs each)
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;:<=>?]*[ -/]*[@-~]|[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
"""A terminal control sequence (ECMA-48): CSI, a string such as OSC with its end, or a plain escape."""
_SCREEN_LINES, _SCREEN_COLUMNS = 6, 80


@dataclass(frozen=True)
class Snapshot:
    """One moment of a domain. `frames` and `contents`: the machine frames that differ from the base, and their bytes."""

    name: str
    taken_unix: float
    vtime_ns: int
    automatic: bool
    screen: str
    frames: NDArray[np.int64]
    contents: NDArray[np.uint8]
    domain: DomainState
    backends: dict[str, Any]

    @property
    def pages(self) -> int:
        return len(self.frames)


class Album:
    """The snapshots of one guest, by name, oldest first."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._memory = guest.domain.memory
        self._kept: dict[str, Snapshot] = {}
        self._frozen = False
        self._counter = 0

    def snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(self._kept.values())

    def dirty(self) -> int:
        """Frames that differ from the base; -1 while there is none."""
        return len(self._memory.private_frames()) if self._frozen else -1

    def take(self, name: str = "", automatic: bool = False) -> Snapshot:
        """Snapshot the present. Without a name it gets the next number. Raises UserError."""
        if len(self._kept) >= MAX_SNAPSHOTS:
            if not automatic:
                raise UserError(f"{MAX_SNAPSHOTS} snapshots are kept already", fix="forget one first")
            self._forget_oldest_automatic()
        if automatic and sum(kept.automatic for kept in self._kept.values()) >= MAX_AUTOMATIC:
            self._forget_oldest_automatic()
        given = name
        while not given and (not name or name in self._kept):
            self._counter += 1
            name = f"before-restore-{self._counter}" if automatic else f"snapshot-{self._counter}"
        if name in self._kept:
            raise UserError(f"a snapshot called {name!r} exists", fix="forget it or give another name")
        if len(name) > 64 or not name.isprintable():
            raise UserError(f"{ascii(name)[:80]} will not do as a name", fix="1 to 64 printable characters")
        frames = self._memory.exported_frames()
        if self._frozen:
            frames = self._memory.private_frames()
        contents = self._memory.octets.reshape(-1, 4096)[frames]
        if not self._frozen:
            self._memory.map_private()
            self._frozen = True
        guest = self._guest
        taken = Snapshot(name, time.time(), guest.domain.clock.now(), automatic, self._screen(), frames, contents,
                         save_domain(guest.domain), guest.save_backends())  # fmt: skip
        self._kept[name] = taken
        return taken

    def restore(self, name: str) -> Snapshot:
        """Go back to a snapshot; the present is kept first, and returned. Raises UserError."""
        wanted = self._kept.get(name)
        if wanted is None:
            known = ", ".join(self._kept) or "none yet"
            raise UserError(f"no snapshot is called {name!r}", why=f"there are: {known}")
        if reason := cannot_load(self._guest.domain, wanted.domain):
            raise UserError(f"cannot restore {name!r}", why=reason, fix="end what the domain shares with others first")
        self._guest.check_backends(wanted.backends)
        self._guest.memory.make_room(claim_of(wanted.domain))
        present = self.take(automatic=True)
        memory, guest = self._memory, self._guest
        memory.map_private()
        memory.octets.reshape(-1, 4096)[wanted.frames] = wanted.contents
        load_domain(guest.domain, wanted.domain)
        guest.load_backends(wanted.backends)
        # Frames that neither the present nor the past had changed hold what they held, and keep their translations.
        changed = np.union1d(present.frames, wanted.frames)
        core = guest.domain.core
        if len(changed) > _MANY_FRAMES:
            core.flush_code()
        else:
            for mfn in changed.tolist():
                core.forget_frame(mfn)
        core.flush_tlb()
        guest.domain.post(Stopped())
        return present

    def forget(self, name: str) -> None:
        if self._kept.pop(name, None) is None:
            raise UserError(f"no snapshot is called {name!r}")

    def _forget_oldest_automatic(self) -> None:
        oldest = next((kept.name for kept in self._kept.values() if kept.automatic), None)
        if oldest is None:
            raise UserError(f"{MAX_SNAPSHOTS} snapshots are kept already, and the present needs one", fix="forget one first")
        del self._kept[oldest]

    def _screen(self) -> str:
        """The console's last lines, printable."""
        text = self._guest.transcript.tail(2000).decode("utf-8", "replace").replace("\r", "")
        text = _SEQUENCE.sub("", text)
        lines = ["".join(c for c in line if c.isprintable())[:_SCREEN_COLUMNS] for line in text.split("\n")]
        return "\n".join(lines[-_SCREEN_LINES:])
