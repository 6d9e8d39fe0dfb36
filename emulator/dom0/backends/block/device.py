"""One virtual disk of one guest: the handshake, the ring when there is one, and the image's worker.

All but the worker's threads runs in the domain's holder. Reads that the host has in memory, and writes that it takes into its memory, are done
in the guest's own hypercall, straight into and out of its frames. All else goes to the worker, and so do these while a recording is made: what
the disk answers then comes back as a message (`DiskAnswer`) and carries the data read, so that the log of messages is enough to run the domain
again without the disk. With `live` off, requests are taken and their data copied as before, but go nowhere, and the answers are those of the
log, found by their tags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from emulator.abi.blkif import SECTOR, VDISK_CDROM, VDISK_READONLY
from emulator.dom0.backends.block.queue import MAX_QUEUES, MAX_RING_ORDER, PersistentGrants, Queue, QueueNodes, QueueState, read_queues
from emulator.dom0.backends.block.requests import MAX_INDIRECT, READ
from emulator.dom0.backends.block.ring import BlockRing, Job, RingCounters
from emulator.dom0.diskspec import DiskSpec
from emulator.dom0.grants import GrantError, GrantLook
from emulator.dom0.storage import DiskWorker, Done, Image
from emulator.dom0.xenbus import XenbusBackend
from emulator.dom0.xenstore import Store
from emulator.errors import UserError

MAX_AT_ONCE: Final = 4 << 20
"""Bytes that are read and written in the guest's own hypercall, where nothing else of it goes on; what is beyond goes to the worker."""

MOST_HASTE: Final = 256
"""Large requests that are done at once, at most, before it is tried again to await others."""


class Tags:
    """Numbers for jobs, counted up for as long as the guest is there: the late answer of a disk that was pulled out finds nobody."""

    def __init__(self) -> None:
        self.next = 1

    def __iter__(self) -> Tags:
        return self

    def __next__(self) -> int:
        self.next += 1
        return self.next - 1


class GuestSide(Protocol):
    """What a device needs of its guest."""

    domid: int
    memory: memoryview
    grants: GrantLook
    tags: Tags

    @property
    def recorded(self) -> bool:
        """Whether what reaches the guest is kept, so that it can be run again."""

    def bind(self, port: int, name: str) -> None:
        """Take the far end of an event channel that the guest offers to Domain-0. ValueError says why not."""

    def unbind(self, port: int, name: str) -> None: ...

    def notify(self, port: int, name: str) -> None:
        """An event for the guest, if the port is still ours."""

    def put_off(self, name: str) -> None:
        """Have `serve_late()` called when the guest has nothing else to do, or its present slice ends."""

    def written(self, frames: Sequence[int]) -> None:
        """These frames were written behind the guest's back: code translated from them is none any more."""

    def post(self, name: str, done: tuple[Done, ...]) -> None:
        """Have `answered(done)` called in the holder's turn."""

    def log(self, level: str, text: str) -> None: ...


@dataclass(frozen=True)
class DeviceState:
    """A saved device; the image's contents by its mark (None: it cannot go back)."""

    spec: DiskSpec
    handshake: tuple[int, int, bool, bool, bool]
    queues: tuple[QueueState, ...]
    next_tag: int
    mark: object
    can_rewind: str  # empty, or why the image cannot go back


class BlockDevice(XenbusBackend):
    """`gone` is called once the device's nodes are removed, in the holder's turn."""

    def __init__(self, spec: DiskSpec, image: Image, side: GuestSide, store: Store, gone: Callable[[BlockDevice], None]) -> None:
        super().__init__("vbd", spec.devid, spec.vdev, side, store)
        self.spec, self.image = spec, image
        self.name = f"vbd-{spec.devid}"
        self._side, self._gone = side, gone
        self.worker = DiskWorker(image, f"{self.name}-{side.domid}", lambda done: side.post(self.name, done))
        self.queues: list[Queue] = []  # none while it is not connected
        self.counters = RingCounters()
        self.live = True
        self._at_once = 0  # bytes of these that are left
        self._haste = self._hasty = 0  # large requests that are not to be put off, and how many were the last time

    # --- xenstore --------------------------------------------------------------------------------------------------------------

    def advertise(self) -> None:
        """The nodes as libxl writes them, then what this backend can do; the handshake starts."""
        spec = self.spec
        kind = "cdrom" if spec.cdrom else "disk"
        back = {
            "params": str(spec.target), "removable": str(int(spec.cdrom)), "bootable": "1", "dev": spec.vdev, "type": "qdisk",
            "mode": "r" if spec.readonly else "w", "device-type": kind, "discard-enable": str(int(spec.discard)), "specification": "xen",
        }  # fmt: skip
        front = {"virtual-device": str(spec.devid), "device-type": kind, "trusted": "1"}
        features = {"feature-flush-cache": "1", "feature-barrier": "0", "feature-max-indirect-segments": str(MAX_INDIRECT),
                    "max-ring-page-order": str(MAX_RING_ORDER), "multi-queue-max-queues": str(MAX_QUEUES),
                    "feature-persistent": str(int(spec.persistent))}  # fmt: skip
        if spec.discard and not spec.readonly:
            features |= {"feature-discard": "1", "discard-granularity": "4096", "discard-alignment": "0", "discard-secure": "0"}
        self.publish("qdisk", back, front, features)

    def forget(self) -> None:
        self.queues = []
        super().forget()

    def removed(self) -> None:
        self._gone(self)

    def connect(self) -> None:
        """connect_ring of xen-blkback: the ring's grants, the event channel, then what the frontend must know of the disk."""
        protocol = self._store.read(f"{self.front}/protocol")
        if protocol not in (None, "", "x86_64-abi"):
            raise GrantError(f"its protocol is {ascii(protocol)[:40]}, x86_64-abi is offered")
        asked, persistent = read_queues(self.number)
        persistent = persistent and self.spec.persistent  # Linux says what it could do whatever was offered
        try:
            for nodes in asked:
                self.queues.append(self._open(nodes, persistent))
        except (GrantError, ValueError):
            self.disconnect()
            raise
        info = (VDISK_READONLY if self.spec.readonly else 0) | (VDISK_CDROM if self.spec.cdrom else 0)
        self.tell({"sectors": str(self.image.size // SECTOR), "info": str(info), "sector-size": str(SECTOR), "physical-sector-size": "4096"})

    def opened(self) -> None:
        self.serve()

    def _open(self, nodes: QueueNodes, persistent: bool) -> Queue:
        """Take a queue's ring and event channel. GrantError or ValueError, with nothing of it held."""
        grants = self._side.grants
        frames: list[int] = []
        try:
            for gref in nodes.grefs:
                frames.append(grants.begin(gref, True))
            self._side.bind(nodes.port, self.name)
        except (GrantError, ValueError):
            for gref in nodes.grefs[: len(frames)]:
                grants.end(gref, True)
            raise
        return self._queue(nodes.grefs, tuple(frames), nodes.port, PersistentGrants(grants) if persistent else None)

    def _queue(self, grefs: tuple[int, ...], frames: tuple[int, ...], port: int, persistent: PersistentGrants | None) -> Queue:
        side = self._side
        ring = BlockRing(side.memory, frames, persistent or side.grants, self.image.size, self.spec.readonly, side.tags, side.written)
        ring.counters = self.counters
        return Queue(ring, grefs, frames, port, persistent)

    def disconnect(self) -> None:
        for queue in self.queues:
            queue.ring.abandon()
            self._side.unbind(queue.port, self.name)
            if queue.persistent is not None:
                queue.persistent.release()
            for gref in queue.grefs:
                self._side.grants.end(gref, True)
        self.queues = []

    # --- requests --------------------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """The frontend sent an event.

        A driver takes a large transfer to pieces, and would be interrupted for each. So the second of them waits, with no event asked for
        the others, until the guest has nothing else to do; unless it was alone the last time."""
        rings = [queue.ring for queue in self.queues if queue.ring.waiting()]
        if rings and self._at_once_allowed() and all(ring.continues() for ring in rings):
            if not self._haste:
                self._side.put_off(self.name)
                return
            self._haste -= 1
        self.serve()

    def serve_late(self) -> None:
        before = self.counters.requests
        self.serve()
        if self.counters.requests - before > 1:
            self._hasty = 0
        else:
            self._haste = self._hasty = min(MOST_HASTE, max(1, 2 * self._hasty))

    def _at_once_allowed(self) -> bool:
        """Nothing may overtake a write that came before it, and a recording needs every answer as a message."""
        return self.live and self.worker.idle and not self._side.recorded

    def serve(self) -> None:
        """All queues are looked at: an empty one costs a word read."""
        for queue in self.queues:
            self._at_once = MAX_AT_ONCE
            self._submit(queue.ring.take(self._do_now if self._at_once_allowed() else None))
        self._push()

    def _do_now(self, kind: int, offset: int, size: int, views: list[memoryview]) -> bool:
        self._at_once -= size
        if self._at_once < 0:
            return False
        image = self.image
        try:
            return image.read_into(offset, size, views) if kind == READ else image.write_from(offset, size, views)
        except OSError:
            return False  # the worker tries again, and tells

    def _submit(self, jobs: list[Job]) -> None:
        if jobs and self.live:
            self.worker.submit(jobs)

    def answered(self, done: tuple[Done, ...]) -> None:
        for one in done:
            for queue in self.queues:
                if queue.ring.finish(one.tag, one.failure, one.data):
                    break
        if any(queue.ring.holds_back for queue in self.queues):
            self.serve()
        else:
            self._push()

    def _push(self) -> None:
        """Show the frontend what is answered; a broken ring closes the device."""
        for queue in self.queues:
            if queue.ring.push():
                self._side.notify(queue.port, self.name)
        broken = next((queue.ring.broken for queue in self.queues if queue.ring.broken), "")
        if broken:
            self.fail(broken)

    # --- end, saving -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the image go, what was written flushed. Waits for the disk."""
        try:
            self.worker.close()
        except OSError as bad:
            self._side.log("error", f"{self.spec.vdev}: {bad.strerror or bad} while closing {self.spec.target}")
        finally:
            self.closed.set()

    def save(self) -> DeviceState:
        """Between two slices. The disk's contents are those of this moment: what is in flight will be done again."""
        mark, why = None, ""
        self.worker.drain()
        try:
            mark = self.image.mark()
        except UserError as bad:
            why = bad.line()
        queues = tuple(queue.save() for queue in self.queues)
        return DeviceState(self.spec, self.handshake.save(), queues, self._side.tags.next, mark, why)

    def load(self, state: DeviceState) -> None:
        """The guest's memory, grants and event channels are those of `state` already. Without `live` the disk stays as it is."""
        if self.live:
            self.worker.drain()
            self.image.rewind(state.mark)
        else:
            self._side.tags.next = state.next_tag
        self.handshake.load(state.handshake)
        self.queues = []
        for saved in state.queues:
            persistent = PersistentGrants(self._side.grants, kept=saved.kept) if saved.persistent else None
            self.queues.append(self._queue(saved.grefs, saved.frames, saved.port, persistent))
            self._submit(self.queues[-1].ring.load(saved.ring, replay=not self.live))
        self._push()


@dataclass(frozen=True, slots=True)
class DiskAnswer:
    """A message: what a disk did for one device."""

    name: str
    done: tuple[Done, ...]

    def apply(self, domain: Any) -> None:
        receiver = domain.receivers.get(self.name)
        if receiver is not None:
            receiver(self.done)
