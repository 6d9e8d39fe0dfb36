"""Many hands on one host at once, while its domains end by themselves: `python -m tests.soak.many_hands [SECONDS] [--seed N]`.

Every verb and every look comes from several threads in an order drawn by lot. Each is to be answered, or refused in one line; at the end
nothing may be left: no memory of the pool, no connection or node of xenstore, no thread."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from emulator.control.host import Host
from emulator.control.portraits import QUESTIONS
from emulator.dom0.config import parse_config
from emulator.dom0.scheduling import SchedOrder
from emulator.errors import UserError

IMAGES: Final = Path(__file__).resolve().parents[2] / "guests/images"
KINDS: Final = ("shell", "shell", "hello", "rogue", "counter", "blkcheck", "ping")
ACTIONS: Final = ("destroy", "restart", "rename-restart", "preserve")
TYPED: Final = (b"poweroff\n", b"reboot\n", b"crash\n", b"crash hard\n", b"echo x\n", b"spin 1\n")
PARTS: Final = (*QUESTIONS, "trace", "rings", "config", "xenstore", "crash")
DOMAINS, DISK_BYTES = 25, 1 << 20
SWITCH_SECONDS: Final = 1e-5
"""The interpreter's switch interval: far more often than the engine's, to find what comes between two steps."""


class Hands:
    """What they do; `folder` has the disks and the dumps."""

    def __init__(self, host: Host, folder: Path, lot: random.Random) -> None:
        self._host, self._folder, self._lot = host, folder, lot
        self._extra = self._disk("extra")
        self._made = 0
        self.answered, self.refused, self.faults = Counter[str](), Counter[str](), Counter[str]()
        one, lot_of, extra = self._one, lot.choice, f"{self._extra},raw,xvdc,ro"
        self.verbs: dict[str, Callable[[], object]] = {
            "create": self._create, "create again": self._create, "create more": self._create, "destroy": lambda: host.destroy(one()),
            "overview": host.overview, "detail": lambda: host.detail(one(), PARTS), "links": lambda: host.detail(0, ("runqueue", "links")),
            "frame": lambda: host.frame(one(), 5), "overhead": host.overhead, "policy": host.balloon_policy, "networks": host.networks,
            "read": lambda: host.console_read(one(), 0), "type": lambda: host.console_write(one(), lot_of(TYPED)),
            "type more": lambda: host.console_write(one(), lot_of(TYPED)), "shutdown": lambda: host.shutdown(one(), lot_of(("poweroff", "reboot"))),
            "rename": lambda: host.rename(one(), f"named-{lot.randrange(1 << 30)}"),
            "mem-set": lambda: host.set_memory(one(), lot_of((8, 10, 16)) << 10), "mem-max": lambda: host.set_max_memory(one(), 16 << 10),
            "turn": lambda: host.set_balloon_policy(lot_of((True, False))),
            "snapshot": lambda: host.snapshot(one(), ""), "restore": self._restore, "pause": lambda: host.pause(one()),
            "unpause": lambda: host.unpause(one()), "unpause more": lambda: host.unpause(one()), "vcpu-set": lambda: host.set_vcpus(one(), 1),
            "sched": lambda: host.sched(SchedOrder("credit2", one(), values={"weight": lot_of((100, 300))})),
            "list": lambda: host.sched(SchedOrder("credit2")), "pin": lambda: host.pin(one(), "all", lot_of(("all", "0", "1")), "-"),
            "block-attach": lambda: host.block_attach(one(), extra), "block-detach": lambda: host.block_detach(one(), "xvdc", True),
            "block-list": lambda: host.block_list(one()), "network-attach": lambda: host.network_attach(one(), "bridge=br0"),
            "network-detach": lambda: host.network_detach(one(), "1", True), "network-list": lambda: host.network_list(one()),
            "storage": host.storage.pool, "dump-core": lambda: host.dump_core(one(), str(folder / f"core{lot.randrange(4)}")),
        }  # fmt: skip

    def work(self, end: float) -> None:
        names = tuple(self.verbs)
        while time.monotonic() < end:
            name = self._lot.choice(names)
            try:
                self.verbs[name]()
                self.answered[name] += 1
            except UserError:
                self.refused[name] += 1
            except Exception as fault:  # noqa: BLE001 - what is looked for
                self.faults[f"{name}: {type(fault).__name__}: {fault}"] += 1
                traceback.print_exc()

    def _one(self) -> int:
        """One of the domains."""
        domids = [row.domid for row in self._host.overview().domains if row.domid]
        if not domids:
            raise UserError("there is no domain")
        return self._lot.choice(domids)

    def _create(self) -> None:
        if len(self._host.overview().domains) > DOMAINS:
            self._host.destroy(self._one())
            return
        self._made += 1
        name, kind, action = f"g{self._made}-{self._lot.randrange(1 << 30)}", self._lot.choice(KINDS), self._lot.choice(ACTIONS)
        disk = f'disk = ["{self._disk(name)},raw,xvda,rw"]\n' if kind == "blkcheck" or self._lot.random() < 0.3 else ""
        text = f'name = "{name}"\nkernel = "{IMAGES / kind}.elf"\nmemory = 8\nmaxmem = 16\nvif = ["bridge=br{self._made % 2}"]\n{disk}'
        self._host.create(parse_config(f'{text}on_poweroff = "{action}"\non_crash = "{action}"\n', file="<soak>"), paused=self._lot.random() < 0.1)

    def _disk(self, name: str) -> Path:
        path = self._folder / f"{name}.img"
        path.write_bytes(bytes(DISK_BYTES))
        return path

    def _restore(self) -> None:
        domid = self._one()
        for taken in self._host.snapshots(domid)[:1]:
            self._host.restore(domid, taken.name)


def left(host: Host) -> list[str]:
    """What is still there when the host has ended."""
    tools = host._tools
    found = [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
    found += [f"{tools.pool.total - tools.pool.free} frames of the pool"] * (tools.pool.free != tools.pool.total)
    found += [f"{len(tools.store.connections)} connections of xenstore"] * bool(tools.store.connections)
    below = ("/local/domain/", "/vm/", "/libxl/", "/local/domain/0/backend/vbd/", "/local/domain/0/backend/vif/")
    return found + [path for path, _value in tools.store.subtree("/") if path.startswith(below) and not path.startswith("/local/domain/0")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.many_hands", description="Every verb from several threads at once.")
    parser.add_argument("seconds", type=float, nargs="?", default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    sys.setswitchinterval(SWITCH_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        host = Host(pool_kib=600 << 10, cpus=2)
        host.start()
        hands = Hands(host, Path(folder), random.Random(seed))
        end = time.monotonic() + options.seconds
        threads = [threading.Thread(target=hands.work, args=(end,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        host.stop()
    for name in hands.verbs:
        print(f"{name:<16} {hands.answered[name]:>6} answered {hands.refused[name]:>6} refused")
    wrong = [*hands.faults, *(f"left: {what}" for what in left(host))]
    wrong += [entry.text for entry in host._tools.log if "the toolstack failed" in entry.text or "the hypervisor failed" in entry.text]
    print("\n".join(wrong) or "no fault, nothing left")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
