"""block-attach, block-detach and block-list: disks of a running domain, as xl has them. Callable from any thread; UserError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.abi.xenbus import state_name
from emulator.dom0.backends.block.device import BlockDevice
from emulator.dom0.backends.block.disks import AttachDisk, open_disk
from emulator.dom0.diskspec import parse_disk
from emulator.dom0.storage.pool import StoragePool
from emulator.dom0.turns import in_turn, plug, until_gone
from emulator.dom0.xenbus import Detach, Plug

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest


@dataclass(frozen=True)
class DiskReport:
    """One disk of a domain, for people and tools."""

    vdev: str
    devid: int
    target: str
    format: str
    readonly: bool
    size: int
    held: int
    backend_state: str
    frontend_state: str
    requests: int
    errors: int
    read_bytes: int
    written_bytes: int
    in_flight: int
    trouble: str


def attach(guest: Guest, text: str, pool: StoragePool | None = None) -> BlockDevice:
    """Plug a disk into a running domain; the guest finds it by itself. `pool`: where a target pool:NAME lies."""
    spec = parse_disk(text)
    if pool is not None:
        spec = pool.admit(spec)
    image = open_disk(spec)
    try:
        device: BlockDevice = plug(guest, Plug("disks", AttachDisk(spec, image.size, image)))
        return device
    except BaseException:
        image.close()
        raise


def detach(guest: Guest, vdev: str, force: bool = False) -> str:
    """Ask the guest to let a disk go, and wait until it has; by force without asking. Returns the disk's name."""
    device: BlockDevice = plug(guest, Plug("disks", Detach(vdev, force)))
    return until_gone(guest, device).label


def reports(guest: Guest) -> tuple[DiskReport, ...]:
    """All disks of a domain."""
    return in_turn(guest, lambda: tuple(_report(device) for device in guest.disks.devices.values()))


def _report(device: BlockDevice) -> DiskReport:
    spec, counters, handshake = device.spec, device.counters, device.handshake
    return DiskReport(
        spec.vdev, spec.devid, str(spec.target), spec.format, spec.readonly, device.image.size, device.image.usage().held,
        state_name(handshake.state), state_name(handshake.frontend), counters.requests, counters.errors, counters.read_bytes, counters.written_bytes,
        sum(queue.ring.in_flight for queue in device.queues), device.trouble,
    )  # fmt: skip
