"""Frames whose bytes another domain may change while this one runs: granted and mapped writable by it, or its own and mapped here.

The processor notices its own stores to code that it has translated; of another domain's it knows nothing. So what is translated from
these frames is forgotten whenever the domain is entered or comes out of a trap. Those are the processor's serialising points: code
that one processor changes for another may be run only behind such a one (SDM volume 3, 8.1.3), CPUID and IRET among them, and
what a PV guest has of either is a trap. A frame that holds no translated code costs some 20 ns.
"""

from __future__ import annotations

import ctypes

from emulator.cpu.core import Core


class ForeignWrites:
    """For one domain; `count` frames now."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._addresses = (ctypes.c_uint64 * 16)()
        self._places: dict[int, list[int]] = {}  # by frame: its place in the array, and how many reasons it has to be there
        self._frames: list[int] = []
        self.count = 0

    def add(self, mfn: int) -> None:
        place = self._places.get(mfn)
        if place is not None:
            place[1] += 1
            return
        if self.count == len(self._addresses):
            grown = (ctypes.c_uint64 * (2 * self.count))()
            ctypes.memmove(grown, self._addresses, 8 * self.count)
            self._addresses = grown
        self._places[mfn] = [self.count, 1]
        self._frames.append(mfn)
        self._addresses[self.count] = mfn << 12
        self.count += 1

    def discard(self, mfn: int) -> None:
        place = self._places.get(mfn)
        if place is None:
            return
        place[1] -= 1
        if place[1]:
            return
        del self._places[mfn]
        last = self._frames.pop()
        self.count -= 1
        if last != mfn:
            self._frames[place[0]] = last
            self._addresses[place[0]] = last << 12
            self._places[last][0] = place[0]
        self._core.forget_frame(mfn)

    def clear(self) -> None:
        self._places.clear()
        self._frames.clear()
        self.count = 0

    def forget(self) -> None:
        """Forget what is translated from them."""
        self._core.forget_frames(self._addresses, self.count)
