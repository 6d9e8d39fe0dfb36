"""A virtual disk with a frontend that speaks through xenstore and a ring in plain memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from emulator.abi.xenbus import XENBUS_INITIALISED
from emulator.dom0.backends.block.device import BlockDevice, Tags
from emulator.dom0.diskspec import parse_disk
from emulator.dom0.grants import GrantLook
from emulator.dom0.storage import Done, RawImage
from emulator.dom0.xenbus import FrontendWatch
from emulator.dom0.xenstore import Store, standard_nodes
from tests.patience import PATIENCE_SECONDS
from tests.unit.plain_grants import FRAMES, PlainGrants
from tests.unit.xenstore_client import Holder

DOMID, FRONT, BACK = 3, "/local/domain/3/device/vbd/51712", "/local/domain/0/backend/vbd/3/51712"


class Side:
    """A guest with 64 frames, port 9 offered; answers are kept until `deliver`."""

    def __init__(self) -> None:
        self.domid = DOMID
        self.recorded = False
        self.memory = memoryview(bytearray(FRAMES * 4096))
        self.plain = PlainGrants()
        self.grants: GrantLook = self.plain
        self.tags = Tags()
        self.bound: set[int] = set()
        self.events = 0
        self.late: list[str] = []
        self.posted: list[tuple[Done, ...]] = []
        self.said: list[str] = []

    def bind(self, port: int, name: str) -> None:
        if port not in (9, 10, 11) or port in self.bound:
            raise ValueError(f"event channel {port} does not await Domain-0")
        self.bound.add(port)

    def unbind(self, port: int, name: str) -> None:
        self.bound.discard(port)

    def notify(self, port: int, name: str) -> None:
        self.events += 1

    def put_off(self, name: str) -> None:
        self.late.append(name)

    def written(self, frames: Sequence[int]) -> None:
        pass

    def post(self, name: str, done: tuple[Done, ...]) -> None:
        self.posted.append(done)

    def log(self, level: str, text: str) -> None:
        self.said.append(text)


class Plugged:
    def __init__(self, folder: Path, access: str = "rw") -> None:
        path = folder / "disk.img"
        path.write_bytes(bytes(range(256)) * 4096)
        self.store, self.side, self.gone = Store(), Side(), list[BlockDevice]()
        nodes = standard_nodes(DOMID, name="g", uuid="0" * 36, memory_kib=4, maxmem_kib=4, vcpus=1, console_gfn=1, console_port=1,
                               store_gfn=2, store_port=2)  # fmt: skip
        self.store.introduce(DOMID, "g", nodes=nodes)
        self.watch = FrontendWatch(self.store, Holder(), "vbd-states")
        self.plug(path, access)

    def plug(self, path: Path, access: str = "rw") -> None:
        """Another disk, perhaps in the place of the one that has gone."""
        spec = parse_disk(f"vdev=xvda,access={access},target={path}")
        self.device = BlockDevice(spec, RawImage(path, readonly=spec.readonly), self.side, self.store, self.gone.append)
        self.device.advertise()
        self.watch.watch(f"{FRONT}/state", self.device.frontend_changed)

    def say(self, **nodes: object) -> None:
        for key, value in nodes.items():
            self.store.write(f"{FRONT}/{key.replace('_', '-')}", str(value))

    def back(self, key: str = "state") -> str | None:
        return self.store.read(f"{BACK}/{key}")

    def connect(self) -> None:
        self.say(ring_ref=101, event_channel=9, protocol="x86_64-abi", state=XENBUS_INITIALISED)

    def read_first_sector(self, frame: int = 1) -> bytes:
        """One request through the ring of a frame into frame 20."""
        ring = frame * 4096
        self.side.memory[ring + 64 :][:112] = request(0, 5, 120)
        self.side.memory[ring] = 1
        self.device.kick()
        self.device.worker.drain()
        for done in self.side.posted:
            self.device.answered(done)
        assert self.side.memory[ring + 8] == 1 and self.side.memory[ring + 64] == 5
        return bytes(self.side.memory[20 * 4096 : 20 * 4096 + 512])

    def close(self) -> None:
        self.watch.close()
        self.device.close()


def request(operation: int, ident: int, gref: int) -> bytes:
    """The first sector of the disk, to or from the first of a frame."""
    return bytes([operation, 1]) + bytes(6) + bytes([ident]) + bytes(15) + bytes([gref, 0, 0, 0, 0, 0]) + bytes(82)


class SlowDisk:
    """The host has nothing in memory and takes nothing into it; writes wait until they are let go."""

    def __init__(self, device: BlockDevice) -> None:
        self.held = threading.Event()
        self._write = device.image.write
        device.image.write = self._late  # type: ignore[method-assign]
        device.image.write_from = lambda offset, size, views: False  # type: ignore[method-assign]

    def _late(self, offset: int, data: bytes) -> None:
        self.held.wait(PATIENCE_SECONDS)
        self._write(offset, data)
