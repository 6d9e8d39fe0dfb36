"""A domain's private machine address space: one memfd, mapped once; machine frame N is its bytes [4096 N, 4096 (N+1)).

The mapping's address never changes in a domain's life: Unicorn, NumPy and Python all look at the same bytes. What stands
behind an address may change (a snapshot maps the file privately over the same place), which is why the file descriptor and
the raw mmap calls are kept here.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

import numpy as np
from numpy.typing import NDArray

from emulator.errors import UserError

FRAME_SHIFT = 12
FRAME = 1 << FRAME_SHIFT

_PROT_READ_WRITE, _MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_NORESERVE = 3, 1, 2, 0x10, 0x4000
_PAGE_PRESENT, _PAGE_SWAPPED, _PAGE_FILE = 1 << 63, 1 << 62, 1 << 61  # bits of a pagemap entry
_MAP_FAILED = (1 << 64) - 1
_MADV_REMOVE = 9
_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_ZEROS = bytes(FRAME)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_uint64
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def trim_heap() -> None:
    """Have the C library return what is free in its heaps to the host (malloc_trim, some 0.2 ms; nothing where there is none of
    that name). Of itself it keeps pages that a gone domain shared with those that live on: 10 to 20 KiB for each one."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


class Backing:
    """A memfd of `size` bytes; closed when nobody refers to it any more."""

    def __init__(self, name: str, size: int) -> None:
        self.fd = os.memfd_create(f"xenconsole-{name}", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)

    def punch(self, first: int, end: int) -> None:
        """Give the memory of frames [first, end) back to the host."""
        if end > first and _libc().fallocate(self.fd, _PUNCH_HOLE, first << FRAME_SHIFT, (end - first) << FRAME_SHIFT):
            raise OSError(ctypes.get_errno(), "fallocate of a hole")

    def __del__(self) -> None:
        os.close(self.fd)


class MachineMemory:
    """`frames` machine frames of zeroed memory.

    `bytes`, `words` (64-bit) are memory views for scalar access, `octets`, `quads` NumPy arrays for bulk work: the same bytes.
    The last `window` of them show other domains' frames (`map_foreign`) and are no part of any snapshot. Raises UserError when the
    host has not that much address space."""

    def __init__(self, frames: int, name: str = "domain", window: int = 0) -> None:
        self.frames = frames
        self.own_frames = frames - window
        self.size = frames << FRAME_SHIFT
        self.file = Backing(name, self.size)
        self.address = _libc().mmap(None, self.size, _PROT_READ_WRITE, _MAP_SHARED | _MAP_NORESERVE, self.file.fd, 0)
        if self.address == _MAP_FAILED:
            raise UserError(f"no room for {self.size >> 20} MiB", where="memory", why=os.strerror(ctypes.get_errno()), fix="lower memory=")
        self._private = False
        self._exported: dict[int, Backing] = {}  # frames that other domains map, and the file behind each
        self._promoted: Backing | None = None
        self.closed = False
        self._array = (ctypes.c_uint8 * self.size).from_address(self.address)
        self.bytes = memoryview(self._array).cast("B")
        self.words = self.bytes.cast("Q")
        self.octets: NDArray[np.uint8] = np.frombuffer(self.bytes, dtype=np.uint8)
        self.quads: NDArray[np.uint64] = np.frombuffer(self.bytes, dtype=np.uint64)

    def frame(self, mfn: int) -> memoryview:
        """The 4096 bytes of a machine frame."""
        return self.bytes[mfn << FRAME_SHIFT : (mfn + 1) << FRAME_SHIFT]

    def scrub(self, mfn: int) -> None:
        """Zero a frame. Its memory goes back to the host where nothing but this mapping stands on it."""
        if self._private or _libc().madvise(self.address + (mfn << FRAME_SHIFT), FRAME, _MADV_REMOVE):
            self.bytes[mfn << FRAME_SHIFT : (mfn + 1) << FRAME_SHIFT] = _ZEROS

    def private_frames(self) -> NDArray[np.int64]:
        """The frames written since `map_private`: pages of our own, no longer the file's (Documentation/admin-guide/mm/pagemap.rst);
        and those exported, which others may write."""
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(self.address >> FRAME_SHIFT << 3)
            entries = np.frombuffer(pagemap.read(self.own_frames * 8), dtype=np.uint64)
        held = (entries & np.uint64(_PAGE_PRESENT | _PAGE_SWAPPED)) != 0
        found = np.flatnonzero(held & ((entries & np.uint64(_PAGE_FILE)) == 0))
        return np.union1d(found, self.exported_frames()) if self._exported else found

    def exported_frames(self) -> NDArray[np.int64]:
        return np.array(sorted(self._exported), dtype=np.int64)

    def map_private(self) -> None:
        """Lay a copy-on-write view of the file over the same addresses: every frame reads as it stands there."""
        self._remap(_MAP_PRIVATE)

    def map_shared(self) -> None:
        """Lay the file itself over the same addresses."""
        self._remap(_MAP_SHARED)

    def _remap(self, kind: int) -> None:
        self._lay(0, self.own_frames, kind, self.file, 0)
        self._private = kind == _MAP_PRIVATE
        for mfn, shared in self._exported.items():
            contents = bytes(self.frame(mfn)) if shared is not self.file else None
            self._lay(mfn, 1, _MAP_SHARED, shared, mfn)
            if contents is not None:
                self.frame(mfn)[:] = contents

    def _lay(self, mfn: int, frames: int, kind: int, file: Backing, source: int) -> None:
        """Frames [source, source + frames) of a file behind those from `mfn` on."""
        at, size, flags = self.address + (mfn << FRAME_SHIFT), frames << FRAME_SHIFT, kind | _MAP_FIXED | _MAP_NORESERVE
        if _libc().mmap(at, size, _PROT_READ_WRITE, flags, file.fd, source << FRAME_SHIFT) == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap over a domain's memory")

    # --- frames that two domains see ----------------------------------------------------------------------------------------------

    def export(self, mfn: int) -> Backing:
        """A file that holds frame `mfn` at its own place, for another domain to map. A frame whose bytes are a copy of the snapshot's
        own is moved to shared backing first. Raises OSError at the host's limit of mappings."""
        if mfn not in self._exported:
            if not self._private:
                self._exported[mfn] = self.file
            else:
                if self._promoted is None:
                    self._promoted = Backing("promoted", self.size)
                os.pwrite(self._promoted.fd, self.frame(mfn), mfn << FRAME_SHIFT)
                self._lay(mfn, 1, _MAP_SHARED, self._promoted, mfn)
                self._exported[mfn] = self._promoted
        return self._exported[mfn]

    def unexport(self, mfn: int) -> None:
        """Nobody else maps the frame any more. One that was promoted stays where it is."""
        if not self._private:
            self._exported.pop(mfn, None)

    def map_foreign(self, mfn: int, file: Backing, source: int) -> None:
        """Show frame `source` of another domain's file in a frame of the window."""
        if mfn < self.own_frames:
            raise ValueError(f"frame {mfn:#x} is not of the window")
        self._lay(mfn, 1, _MAP_SHARED, file, source)

    def unmap_foreign(self, mfn: int) -> None:
        self._lay(mfn, 1, _MAP_SHARED, self.file, mfn)

    def close(self, keep: frozenset[int] = frozenset()) -> None:
        """Unmap. Views still held by others would dangle: the owner closes last. Of the files' memory only the frames to `keep`, which
        other domains map, stay with the host."""
        if not self.closed:
            if keep:
                for file in (self.file, self._promoted):
                    if file is not None:
                        self._punch_all_but(file, sorted(mfn for mfn in keep if self._exported.get(mfn) is file))
            del self.octets, self.quads
            self.words.release()
            self.bytes.release()
            _libc().munmap(self.address, self.size)
            self._exported.clear()
            self._promoted = None
            del self.file
            self.closed = True

    def _punch_all_but(self, file: Backing, kept: list[int]) -> None:
        for first, end in zip([-1, *kept], [*kept, self.frames], strict=True):
            file.punch(first + 1, end)
