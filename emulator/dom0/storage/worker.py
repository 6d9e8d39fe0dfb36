"""A disk's own thread: jobs in, answers out by a callback, in the order of their completion.

Reads that the host has in memory are answered without the thread. All else waits here, never in a domain's worker; jobs that
came together are answered together.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from emulator.abi.blkif import BLKIF_OP_DISCARD, BLKIF_OP_READ, BLKIF_OP_WRITE
from emulator.dom0.storage.image import Image
from emulator.errors import UserError

_DRAIN_SECONDS: Final = 30.0
_TOGETHER: Final = 32


class Job(Protocol):
    """`kind`: BLKIF_OP_READ, WRITE, DISCARD, or FLUSH_DISKCACHE (with data: flush, write, flush)."""

    @property
    def tag(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Done:
    """A job's answer. `failure`: empty, or one line; `data`: what was read."""

    tag: int
    failure: str = ""
    data: bytes | bytearray = b""


class DiskWorker:
    """`answer` is called with what is done, from any thread, and must not block."""

    def __init__(self, image: Image, name: str, answer: Callable[[tuple[Done, ...]], None]) -> None:
        self.image = image
        self._name = name
        self._answer = answer
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._stopping = False
        self._failure: OSError | None = None  # why the image was not closed well
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Nothing is being done or waits; nobody but the caller gives it work."""
        return not self._jobs and not self._busy

    def submit(self, jobs: Sequence[Job]) -> None:
        """Do these; never blocks."""
        later: list[Job] = []
        done: list[Done] = []
        for job in jobs:
            # A read must not overtake a write that came before it: file systems don't ask for it, a hostile guest may.
            if job.kind == BLKIF_OP_READ and not later and not self._jobs and not self._busy:
                data = self._cached(job)
                if data is not None:
                    done.append(data)
                    continue
            later.append(job)
        if done:
            self._answer(tuple(done))
        if later:
            with self._changed:
                self._queue(later)

    def _queue(self, jobs: Sequence[Job]) -> None:
        """With the lock held."""
        self._jobs.extend(jobs)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _cached(self, job: Job) -> Done | None:
        try:
            data = self.image.read_cached(job.offset, job.size)
        except OSError as bad:
            return Done(job.tag, f"the host's disk: {bad.strerror or bad}")
        return None if data is None else Done(job.tag, "", data)

    def drain(self) -> None:
        """Return when every job is done and answered. UserError when the host's disk does not come back."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._jobs and not self._busy, _DRAIN_SECONDS):
                raise UserError("the host's disk does not answer", where=self.image.path, why=f"nothing for {_DRAIN_SECONDS:.0f} s")

    def close(self) -> None:
        """Finish what was submitted, flush, and let the image go. OSError when that fails, or lasts: the image is let go all the same,
        but not while the disk is at work on it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None:
            self.image.close()
            return
        self._thread.join(_DRAIN_SECONDS)
        if self._thread.is_alive():
            raise OSError(errno.ETIMEDOUT, f"the host's disk does not answer for {_DRAIN_SECONDS:.0f} s, and is waited for")
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        self._serve()
        try:
            self.image.close()
        except OSError as bad:
            self._failure = bad

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if not self._jobs:
                    return
                self._busy = True
                batch = [self._jobs.popleft() for _ in range(min(_TOGETHER, len(self._jobs)))]
            self._answer(tuple(self._do(job) for job in batch))

    def _do(self, job: Job) -> Done:
        image = self.image
        try:
            if job.kind == BLKIF_OP_READ:
                return Done(job.tag, "", image.read(job.offset, job.size))
            if job.kind == BLKIF_OP_WRITE:
                image.write(job.offset, job.data)
            elif job.kind == BLKIF_OP_DISCARD:
                image.discard(job.offset, job.size)
            else:
                image.flush()
                if job.data:
                    image.write(job.offset, job.data)
                    image.flush()
        except OSError as bad:
            return Done(job.tag, f"the host's disk: {bad.strerror or bad}")
        return Done(job.tag)
