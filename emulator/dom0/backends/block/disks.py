"""The virtual disks of one guest: there from its start, plugged in and out while it runs, saved with its snapshots.

Everything here runs in the domain's holder but `close`, which runs when nobody holds it any more.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from emulator.abi.grant_table import GTF_permit_access, GTF_readonly, GTF_type_mask
from emulator.dom0.backends.block.device import BlockDevice, DeviceState, DiskAnswer, Tags
from emulator.dom0.diskspec import DiskSpec, device_number
from emulator.dom0.grants import GrantAccess, GrantError, GrantLook
from emulator.dom0.storage import Done, Image, open_image
from emulator.dom0.storage.recorded import RecordedImage
from emulator.dom0.xenbus import Detach, FrontendWatch
from emulator.dom0.xenstore import Store
from emulator.errors import UserError
from emulator.hypervisor.events import INTERDOMAIN, UNBOUND
from emulator.hypervisor.grants.active import HOST_READ, HOST_WRITE
from emulator.hypervisor.grants.active import GrantError as TableRefusal
from emulator.hypervisor.grants.table import GrantTable
from emulator.hypervisor.memory.frames import GUEST, NONE, WRITABLE

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain

_TOGETHER: Final = 64  # frames whose code is forgotten in one call
_READ: Final = (HOST_READ,)
_WRITE: Final = (HOST_WRITE,)
_GRANTED_MASK: Final = 0xFFFF0000 | GTF_type_mask


class TableGrants:
    """GrantAccess over the hypervisor's table of one domain: a use is a map by Domain-0, without the mapping."""

    def __init__(self, table: GrantTable) -> None:
        self._table = table

    def begin(self, gref: int, write: bool) -> int:
        try:
            return self._table.map(gref, 0, write, _WRITE if write else _READ)
        except TableRefusal as refused:
            raise GrantError(refused.reason) from None

    def end(self, gref: int, write: bool) -> None:
        self._table.unmap(gref, _WRITE if write else _READ)


class DomainGrants(TableGrants):
    """GrantLook over a domain. A block request has up to 64 references: `look` is written for speed."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain.grants)
        self._words, self._frames = domain.memory.words, domain.frames

    def look(self, grefs: Sequence[int], write: bool) -> list[int]:
        table, words = self._table, self._words
        if table.version != 1:
            begun: list[int] = []
            try:
                for gref in grefs:
                    begun.append(self.begin(gref, write))
            finally:
                for gref in grefs[: len(begun)]:
                    self.end(gref, write)
            return begun
        shared, owner, kinds, known = table.shared, self._frames.owner, self._frames.type, self._frames.frames
        mask = _GRANTED_MASK | GTF_readonly if write else _GRANTED_MASK
        found = []
        for gref in grefs:
            if gref >> 9 >= len(shared):
                raise GrantError(f"grant {gref} does not exist")
            entry = words[(shared[gref >> 9] << 9) + (gref & 511)]
            if entry & mask != GTF_permit_access:  # for Domain-0, whose number is zero
                raise GrantError(f"grant {gref} has flags {entry & 0xFFFF:#x} for domain {entry >> 16 & 0xFFFF}")
            mfn = entry >> 32
            if mfn >= known or owner[mfn] != GUEST or (write and kinds[mfn] != WRITABLE and kinds[mfn] != NONE):
                raise GrantError(f"grant {gref} gives frame {mfn:#x}, which may not be used so")
            found.append(mfn)
        return found


class DomainSide:
    """A real domain as any backend's device sees it."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.domid = domain.domid
        self.memory = domain.memory.bytes
        self.grants: GrantAccess = TableGrants(domain.grants)
        self.closed = False

    @property
    def recorded(self) -> bool:
        return self._domain.recording is not None

    def bind(self, port: int, name: str) -> None:
        found = self._domain.events.ports.get(port)
        if found is None or found.kind != UNBOUND or found.remote_domain != 0:
            raise ValueError(f"event channel {port} does not await Domain-0")
        found.kind, found.backend = INTERDOMAIN, name

    def unbind(self, port: int, name: str) -> None:
        found = self._domain.events.ports.get(port)
        if found is not None and found.kind == INTERDOMAIN and found.backend == name:
            found.kind, found.backend = UNBOUND, ""

    def put_off(self, name: str) -> None:
        self._domain.events.put_off.add(name)

    def notify(self, port: int, name: str) -> None:
        found = self._domain.events.ports.get(port)
        if found is not None and found.kind == INTERDOMAIN and found.backend == name:
            self._domain.events.set_pending(port)

    def notify_lazily(self, port: int, name: str, ns: int) -> None:
        found = self._domain.events.ports.get(port)
        if found is not None and found.kind == INTERDOMAIN and found.backend == name:
            self._domain.events.set_pending_lazily(port, self._domain.clock.now() + ns)

    def post(self, name: str, done: tuple[Done, ...]) -> None:
        if not self.closed:
            self._domain.post(DiskAnswer(name, done))

    def log(self, level: str, text: str) -> None:
        self._domain.sinks.log(level, text)


class DiskSide(DomainSide):
    """The same for a disk (device.GuestSide)."""

    grants: GrantLook

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        self.grants = DomainGrants(domain)
        self.tags = Tags()
        self._addresses = (ctypes.c_uint64 * _TOGETHER)()

    def written(self, frames: Sequence[int]) -> None:
        core, addresses = self._domain.core, self._addresses
        if len(frames) == 1:
            core.forget_frame(frames[0])
            return
        for start in range(0, len(frames), _TOGETHER):
            some = frames[start : start + _TOGETHER]
            addresses[: len(some)] = [mfn << 12 for mfn in some]
            core.forget_frames(addresses, len(some))


def open_disk(spec: DiskSpec) -> Image:
    """A disk's image, made first when it is an overlay that isn't there. Raises UserError."""
    return open_image(spec.target, spec.format, readonly=spec.readonly, base=spec.base, base_format=spec.base_format)


def open_disks(specs: tuple[DiskSpec, ...]) -> list[Image]:
    """All of them or, with UserError, none."""
    images: list[Image] = []
    try:
        for spec in specs:
            images.append(open_disk(spec))
    except BaseException:
        close_images(images)
        raise
    return images


def close_images(images: list[Image]) -> None:
    for image in images:
        image.close()


@dataclass(frozen=True, slots=True)
class AttachDisk:
    """An order: plug this disk in. A replay needs its size alone; `image` is the disk itself, given away."""

    spec: DiskSpec
    size: int
    image: Image = field(compare=False, repr=False)


class GuestDisks:
    def __init__(self, domain: Domain, store: Store) -> None:
        self._domain, self._store = domain, store
        self._side: DiskSide | None = None
        self._watch: FrontendWatch | None = None
        self.devices: dict[int, BlockDevice] = {}
        self.gone: list[BlockDevice] = []  # let go, their images perhaps not closed yet
        domain.receivers["disks"] = cast("Callable[[bytes], None]", self.ordered)

    # --- plugging --------------------------------------------------------------------------------------------------------------

    def ordered(self, order: AttachDisk | Detach) -> BlockDevice:
        """What a Plug message brings. Raises UserError, the image still the caller's."""
        if isinstance(order, Detach):
            device = self.find(order.which)
            device.detach(order.force)
            return device
        image = order.image
        if self._domain.replaying:
            image = RecordedImage(image.path, order.size, image.readonly)
        return self.attach(order.spec, image)

    def attach(self, spec: DiskSpec, image: Image) -> BlockDevice:
        """Plug a disk in; the image belongs to it from now on. Raises UserError, the image still the caller's."""
        if spec.devid in self.devices:
            raise UserError(f"{spec.vdev} is there already", fix="another vdev=, or block-detach it first")
        device = self._add(spec, image)
        device.advertise()
        self._listen(device)
        return device

    def _add(self, spec: DiskSpec, image: Image) -> BlockDevice:
        if self._side is None or self._watch is None:
            self._side, self._watch = DiskSide(self._domain), FrontendWatch(self._store, self._domain, "vbd-states")
        device = BlockDevice(spec, image, self._side, self._store, self._removed)
        device.live = not self._domain.replaying
        self.devices[spec.devid] = device
        self._domain.events.backends[device.name] = device.kick
        self._domain.events.unhurried[device.name] = device.serve_late
        # An answer is a message of its own kind, no bytes.
        self._domain.receivers[device.name] = cast("Callable[[bytes], None]", device.answered)
        return device

    def _listen(self, device: BlockDevice) -> None:
        assert self._watch is not None
        self._watch.watch(f"{device.front}/state", device.frontend_changed)

    def traffic(self) -> tuple[int, int]:
        """Bytes read and written since each disk came. Any thread."""
        counters = [device.counters for device in list(self.devices.values())]
        return sum(one.read_bytes for one in counters), sum(one.written_bytes for one in counters)

    def find(self, vdev: str) -> BlockDevice:
        """By the guest's name for it or its number. Raises UserError."""
        device = self.devices.get(device_number(vdev) or -1)
        if device is None:
            there = ", ".join(one.spec.vdev for one in self.devices.values()) or "none"
            raise UserError(f"no disk {ascii(vdev)[1:-1][:40]}", why=f"there are: {there}")
        return device

    def _removed(self, device: BlockDevice) -> None:
        """A device's nodes are gone: forget it. Its image is closed by a thread, since the disk may take its time."""
        assert self._watch is not None
        self._watch.unwatch(f"{device.front}/state")
        del self.devices[device.spec.devid]
        del self._domain.events.backends[device.name]
        del self._domain.events.unhurried[device.name]
        del self._domain.receivers[device.name]
        self.gone = [one for one in self.gone if not one.closed.is_set()] + [device]
        threading.Thread(target=device.close, name=f"close-{device.name}").start()

    def close(self) -> None:
        """The guest is gone: finish what it was promised and let every image go."""
        if self._watch is not None:
            self._watch.close()
        for device in self.devices.values():
            device.close()
        for device in self.gone:
            device.closed.wait(30)
        self.devices.clear()
        if self._side is not None:
            self._side.closed = True
            self._side.memory = memoryview(b"")

    # --- snapshots -------------------------------------------------------------------------------------------------------------

    def save(self) -> tuple[DeviceState, ...]:
        return tuple(device.save() for device in self.devices.values())

    def check(self, state: tuple[DeviceState, ...]) -> None:
        """UserError when the disks cannot go back to `state`."""
        for saved in state:
            device = self.devices.get(saved.spec.devid)
            if device is None or device.spec != saved.spec:
                raise UserError(f"{saved.spec.vdev} was there then and is not now", fix=f"block-attach '{saved.spec.text}' first")
            if saved.can_rewind:
                raise UserError("a disk cannot go back", why=saved.can_rewind)

    def pause(self) -> None:
        """The store is about to be put back: what changes in it now is no news."""
        if self._watch is not None:
            self._watch.deaf = True

    def load(self, state: tuple[DeviceState, ...]) -> None:
        """After the guest's memory, grants, event channels and nodes. Disks that came since are pulled out."""
        for saved in state:
            self.devices[saved.spec.devid].load(saved)
        if self._watch is not None:
            self._watch.deaf = False
        kept = {saved.spec.devid for saved in state}
        for device in [one for one in self.devices.values() if one.spec.devid not in kept]:
            device.forget()

