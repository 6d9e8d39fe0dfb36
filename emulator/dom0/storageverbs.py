"""disk-list, disk-create, disk-clone, disk-remove, and a look into any disk: Domain-0's view of the storage pool and of every disk that a
domain has. Callable from any thread; UserError.

A disk is named by its name in the pool, or, if a domain uses one from elsewhere, by its path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from emulator.dom0.storage import Image, open_image
from emulator.dom0.storage.pool import PoolDisk, base_chain, image_size
from emulator.dom0.turns import in_turn
from emulator.errors import UserError, sendable

if TYPE_CHECKING:
    from emulator.dom0.backends.block.device import BlockDevice
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack

_TURN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class DiskUse:
    """A domain that has a disk."""

    domid: int
    domain: str
    vdev: str
    readonly: bool


@dataclass(frozen=True, slots=True)
class DiskReport:
    """A disk with who uses it: `uses` as a disk of their own, `clones` (names) as what they lie over. `pooled`: in the pool's folder."""

    disk: PoolDisk
    pooled: bool
    uses: tuple[DiskUse, ...]
    clones: tuple[str, ...]


def _devices(tools: Toolstack) -> list[tuple[Guest, BlockDevice]]:
    return [(guest, device) for guest in list(tools.guests.values()) for device in list(guest.disks.devices.values())]


def reports(tools: Toolstack) -> tuple[DiskReport, ...]:
    """The pool's disks by name, then those that domains have from elsewhere."""
    pooled = tools.storage.disks()
    uses: dict[str, list[DiskUse]] = {}
    elsewhere: dict[str, PoolDisk] = {}
    known = {os.path.realpath(disk.path) for disk in pooled}
    for guest, device in _devices(tools):
        real = os.path.realpath(device.spec.target)
        uses.setdefault(real, []).append(DiskUse(guest.domid, guest.name, device.spec.vdev, device.spec.readonly))
        if real not in known:
            elsewhere[real] = _outside(device)
    everything = (*pooled, *elsewhere.values())
    clones: dict[str, list[str]] = {}
    for disk in everything:
        if disk.chain:
            clones.setdefault(os.path.realpath(disk.chain[0]), []).append(disk.name)

    def told(disk: PoolDisk) -> DiskReport:
        real = os.path.realpath(disk.path)
        return DiskReport(disk, real in known, tuple(uses.get(real, ())), tuple(clones.get(real, ())))

    return tuple(told(disk) for disk in everything)


def _outside(device: BlockDevice) -> PoolDisk:
    spec = device.spec
    disk = PoolDisk(sendable(str(spec.target)), spec.target, spec.format, device.image.size)
    try:
        status = os.stat(spec.target)
        disk = replace(disk, held=status.st_blocks * 512, changed_unix=status.st_mtime)
        return replace(disk, chain=base_chain(spec.target, spec.format), size=image_size(spec.target, spec.format) or disk.size)
    except OSError as bad:
        return replace(disk, trouble=bad.strerror or str(bad))
    except UserError as bad:
        return replace(disk, trouble=bad.line())


def report(tools: Toolstack, name: str) -> DiskReport:
    """One disk. Raises UserError when there is none of that name."""
    for one in reports(tools):
        if one.disk.name == name:
            return one
    tools.storage.find(name)  # says what is wrong with the name
    raise UserError(f"no disk {ascii(name)[:80]}")


def remove(tools: Toolstack, name: str) -> Path:
    """Delete a disk of the pool. Refused while a domain has it or another disk lies over it."""
    for one in reports(tools):
        if one.pooled and one.disk.name == name and one.uses:
            use = one.uses[0]
            raise UserError(f"{name} is {use.vdev} of domain {use.domid} ({use.domain})", fix=f"block-detach {use.domid} {use.vdev} first")
    return tools.storage.remove(name)


@contextmanager
def opened(tools: Toolstack, name: str) -> Iterator[Image]:
    """A disk's present contents, to look at: nothing a guest does waits for it."""
    disk = report(tools, name).disk
    real = os.path.realpath(disk.path)
    image: Image | None = None
    for guest, device in _devices(tools):
        if os.path.realpath(device.spec.target) == real and (open_view := _view(guest, device)) is not None:
            image = open_view()
            break
    image = image or open_image(disk.path, disk.format, readonly=True, locked=False)
    try:
        yield image
    finally:
        image.close()


def _view(guest: Guest, device: BlockDevice) -> Callable[[], Image] | None:
    """Asked in the guest's turn, where no device goes; None when it has just gone."""

    def act() -> Callable[[], Image] | None:
        return device.image.look() if guest.disks.devices.get(device.spec.devid) is device else None

    try:
        return in_turn(guest, act, _TURN_SECONDS)
    except UserError:
        return None
