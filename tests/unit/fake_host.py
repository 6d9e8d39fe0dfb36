"""A host of scripted guests for the control tests: thread-safe like the real one, no emulation.

What a guest does follows its name's first word: echo (says what is typed), mute (reads nothing), flood (says 4 MiB of numbered
lines), held (too, but waits for its reader, or to be paused, before it says what would drive unread lines out), poweroff, crash,
reboot (ends so, once), preserve (crashes and stays), spin (never ends).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from emulator.control.hostapi import PoolsLike
from emulator.control.hoststorage import HostStorage
from emulator.control.memoryviews import FrameView
from emulator.control.networkviews import NetworksView, NetworkView, PacketTail, PacketView, VifView
from emulator.control.views import (
    ConsoleChunk,
    CrashView,
    DomainDetail,
    DomainView,
    HostView,
    Insn,
    Overview,
    SnapshotView,
    VcpuView,
)
from emulator.dom0.balloonpolicy import Member, PolicyReport
from emulator.dom0.overhead import Overhead
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError

KEPT = 1 << 20
FLOOD = b"".join(b"line %06d of a flood that does not end soon\r\n" % number for number in range(90_000))
CRASH = CrashView(
    reason="page fault in \x1b[31mkernel mode",
    vcpu=VcpuView(
        vcpu=0, state="d", registers={"rax": 1, "rip": 0x1000, "rsp": 0x7FF0, "rflags": 0x202, "cs": 0xE033, "cr2": 0xDEAD},
        last_trap="#PF error 0x2 at 0x1000", disassembly=(Insn(0x1000, b"\x0f\x0b", "ud2"),), stack=bytes(range(64)),
    ),
)  # fmt: skip


@dataclass
class Obituary:
    domain: DomainView
    reason: str
    crash: CrashView | None = None
    restarted_as: int = -1


@dataclass
class Guest:
    domid: int
    name: str
    transcript: bytearray = field(default_factory=bytearray)
    cut: int = 0  # bytes of the transcript that are no longer kept
    read: int = 0  # how far somebody has read
    typed: bytearray = field(default_factory=bytearray)
    shutdown: str = ""
    running: threading.Event = field(default_factory=threading.Event)

    def view(self) -> DomainView:
        return DomainView(domid=self.domid, name=self.name, shutdown=self.shutdown, console_end=self.cut + len(self.transcript))


class FakeHost:
    """Fits emulator.control.hostapi.HostApi."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.guests: dict[int, Guest] = {}
        self.dead: dict[int, tuple[Obituary, Guest]] = {}
        self.listeners: list[Callable[[str, int], None]] = []
        self.calls: list[str] = []
        self.blocked = threading.Event()
        self.blocked.set()
        self.stopped = False
        self.next = 1

    @cached_property
    def storage(self) -> HostStorage:
        """The real one, of a toolstack without guests."""
        return HostStorage(Toolstack(pool_kib=1024, cpus=1))

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True
        for guest in self.guests.values():
            guest.running.set()

    def listen(self, callback: Callable[[str, int], None]) -> Callable[[], None]:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)

    def tell(self, kind: str, domid: int) -> None:
        for listener in tuple(self.listeners):
            listener(kind, domid)

    def overview(self, since_log: int = 0) -> Overview:
        with self.lock:
            rows = tuple(guest.view() for guest in self.guests.values())
            return Overview(host=HostView(name="fake"), domains=rows, log_seq=since_log)

    def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        self.blocked.wait()
        guest = self._guest(domid)
        ended = guest.shutdown == "crash"
        return DomainDetail(domain=guest.view(), crash=CRASH if ended else None, config={"on_crash": "preserve"} if ended else {})

    def frame(self, domid: int, pfn: int) -> FrameView:
        self._guest(domid)
        return FrameView(pfn, mfn=pfn + 7, owner="the domain", type="writable", count=1, references=2)

    def networks(self) -> NetworksView:
        with self.lock:
            vifs = tuple(VifView(domid, 0, name=f"vif{domid}.0", domain=guest.name, network="net0") for domid, guest in self.guests.items())
        return NetworksView((NetworkView("net0"),), vifs)

    def packets(self, network: str, source: str, since: int, most: int) -> PacketTail:
        if network != "net0":
            raise UserError(f"no network {network}")
        return PacketTail(network, (PacketView(since + 1, 1.5, source or "vif1.0", 60, "ARP, Request"),), since + 1)

    def create(self, config: Any, *, paused: bool = False, progress: Callable[[str], None] | None = None) -> int:
        if progress is not None:
            progress("loading")
        return self.add(config.name)

    def add(self, name: str) -> int:
        with self.lock:
            if any(guest.name == name for guest in self.guests.values()):
                raise UserError(f"a domain {name} exists already")
            domid, self.next = self.next, self.next + 1
            guest = self.guests[domid] = Guest(domid, name)
            guest.running.set()
        threading.Thread(target=self._live, args=(guest,), daemon=True).start()
        return domid

    def _live(self, guest: Guest) -> None:
        what = guest.name.split("-")[0]
        if what in ("flood", "held"):
            for at in range(0, len(FLOOD), 8192):
                while what == "held" and at - guest.read > KEPT // 2 and guest.running.is_set() and not self.stopped:
                    time.sleep(0.002)
                guest.running.wait()
                self.say(guest.domid, FLOOD[at : at + 8192])
                time.sleep(0.002)
            self.end(guest.domid, "poweroff")
        elif what == "preserve":
            self.say(guest.domid, b"last words")
            guest.shutdown = "crash"
            self.tell("state", guest.domid)
        elif what in ("poweroff", "crash", "reboot"):
            self.say(guest.domid, b"hello\r\n")
            self.end(guest.domid, what)

    def say(self, domid: int, data: bytes) -> None:
        with self.lock:
            guest = self.guests[domid]
            guest.transcript += data
            if len(guest.transcript) > KEPT:
                guest.cut += len(guest.transcript) - KEPT
                del guest.transcript[: len(guest.transcript) - KEPT]
        self.tell("console", domid)

    def end(self, domid: int, reason: str) -> None:
        with self.lock:
            guest = self.guests.pop(domid, None)
            if guest is None:
                return
            after = self.add("poweroff-again") if reason == "reboot" else -1
            self.dead[domid] = Obituary(guest.view(), reason, CRASH if reason == "crash" else None, after), guest
        self.tell("gone", domid)

    def _guest(self, domid: int) -> Guest:
        with self.lock:
            if domid in self.guests:
                return self.guests[domid]
        raise UserError(f"no domain {domid}")

    def pause(self, domid: int) -> None:
        self._guest(domid).running.clear()
        self.calls.append("pause")

    def unpause(self, domid: int) -> None:
        self._guest(domid).running.set()
        self.calls.append("unpause")

    def destroy(self, domid: int) -> None:
        self._guest(domid)
        self.end(domid, "destroyed")

    def shutdown(self, domid: int, reason: str) -> None:
        self._guest(domid)
        self.calls.append(f"shutdown {reason}")

    def dump_core(self, domid: int, path: str) -> str:
        return f"core of {self._guest(domid).name} written to {path}"

    def rename(self, domid: int, name: str) -> None:
        self._guest(domid).name = name

    def snapshot(self, domid: int, name: str) -> SnapshotView:
        return SnapshotView(domid=domid, name=name, taken_unix=1.0, vtime_ns=1)

    def restore(self, domid: int, name: str) -> SnapshotView:
        raise RuntimeError("a fault of ours")

    def snapshots(self, domid: int) -> tuple[SnapshotView, ...]:
        return (self.snapshot(domid, "one"),)

    def forget(self, domid: int, name: str) -> None: ...
    def set_memory(self, domid: int, kib: int) -> None: ...
    def set_max_memory(self, domid: int, kib: int) -> None: ...
    def set_min_memory(self, domid: int, kib: int) -> None: ...
    def set_balloon_policy(self, on: bool) -> None: ...

    def balloon_policy(self) -> PolicyReport:
        said, silent = Member(1, 65536, 262144, 131072, 131072, 40960), Member(2, 8192, 16384, 16384, 16384, None)
        return PolicyReport(True, (("linux", said), ("hello", silent)))

    def overhead(self) -> Overhead:
        return Overhead(100 << 10, 50 << 10, 30 << 10, 10 << 10, 10, 5)

    def console_write(self, domid: int, data: bytes) -> int:
        guest = self._guest(domid)
        taken = data[:64] if not guest.name.startswith("mute") else b""
        with self.lock:
            guest.typed += taken
        if guest.name.startswith("echo"):
            self.say(domid, taken)
            if b"crash" in guest.typed or b"poweroff" in guest.typed:
                self.end(domid, "crash" if b"crash" in guest.typed else "poweroff")
        return len(taken)

    def console_read(self, domid: int, offset: int, limit: int = 65536) -> ConsoleChunk:
        with self.lock:
            guest = self.dead[domid][1] if domid in self.dead else self._guest(domid)
            start = max(offset, guest.cut)
            data = bytes(guest.transcript[start - guest.cut : start - guest.cut + limit])
            guest.read = max(guest.read, start + len(data))
            return ConsoleChunk(domid, start, data, guest.cut + len(guest.transcript))

    def sched(self, order: Any) -> str:
        self._guest(order.domid)
        return f"sched-{order.scheduler}"

    def pin(self, domid: int, vcpu: str, hard: str, soft: str) -> str:
        return self._guest(domid).name

    @property
    def cpupools(self) -> PoolsLike:
        raise UserError("no pools here")

    def set_vcpus(self, domid: int, count: int) -> None:
        self._guest(domid)

    def block_attach(self, domid: int, spec: str) -> str:
        self._guest(domid)
        return "xvdb"

    def block_detach(self, domid: int, vdev: str, force: bool) -> str:
        self._guest(domid)
        return vdev

    def block_list(self, domid: int) -> tuple[Any, ...]:
        self._guest(domid)
        return ()

    def network_attach(self, domid: int, spec: str) -> str:
        self._guest(domid)
        return f"vif{domid}.0"

    def network_detach(self, domid: int, which: str, force: bool) -> str:
        self._guest(domid)
        return f"vif{domid}.{which}"

    def network_list(self, domid: int) -> tuple[Any, ...]:
        self._guest(domid)
        return ()

    def network_uplink(self, network: str, subnet: str, services: str) -> None:
        pass

    def capture(self, domid: int, which: str, path: str, mib: int) -> str:
        self._guest(domid)
        return f"vif{domid}.{which or 0} is captured to {path}, up to {mib} MiB"

    def obituary(self, domid: int) -> Obituary | None:
        with self.lock:
            return self.dead[domid][0] if domid in self.dead else None
