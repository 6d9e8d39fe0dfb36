"""The toolstack: domains come, run, end and come again, as xl and libxl would have it.

Domains run on the physical CPUs' threads; what follows an end (restart, removal) is done by a thread of its own (`ends`), so
that no CPU waits for it. All public methods may be called from any thread and raise UserError.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from emulator.dom0 import scheduling
from emulator.dom0.autoballoon import Autoballoon
from emulator.dom0.config import MAX_NAME, DomainConfig, is_name
from emulator.dom0.cpupools import CpuPools
from emulator.dom0.ends import Ends
from emulator.dom0.guest import Guest, build_guest
from emulator.dom0.memoryverbs import DomainMemory
from emulator.dom0.network import Networks
from emulator.dom0.obituaries import Autopsy, Obituary, examined
from emulator.dom0.resting import Rests
from emulator.dom0.snapshots import Snapshot
from emulator.dom0.storage.pool import StoragePool
from emulator.dom0.turns import in_turn
from emulator.dom0.xenstore import Store
from emulator.dom0.xenstore.socket import StoreSocket, serve
from emulator.errors import UserError
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.mailbox import ToBackend
from emulator.hypervisor.scheduler import DEFAULT_SCHEDULER, make_scheduler
from emulator.machine.memory import trim_heap
from emulator.machine.physical_cpus import PhysicalCpus
from emulator.machine.pool import MemoryPool
from emulator.machine.seats import Actor

MAX_DOMAINS = 2000
_FIRST_RESERVED = 0x7FF0
_OBITUARIES, _LOG_LINES = 64, 2000


@dataclass(frozen=True)
class LogEntry:
    seq: int
    time_unix: float
    domid: int
    level: str
    text: str
    name: str = ""  # the domain's then


class Toolstack:
    """See the module. `cpus`: physical CPUs; `pool_kib`: memory for all domains together."""

    def __init__(self, *, pool_kib: int, cpus: int, scheduler: str = DEFAULT_SCHEDULER) -> None:
        self.pool = MemoryPool(pool_kib // 4)
        self.cpus = PhysicalCpus(cpus, self._failed, make_scheduler(scheduler, range(cpus)))
        self.cpupools = CpuPools(self)
        self.rests = Rests(self)
        self.store = Store()
        self.store.exists = self.domid_exists
        self.store.log = lambda text: self.say("debug", 0, f"xenstore: {text}")
        self.xenstored: StoreSocket | None = None
        self.networks = Networks()
        self.autoballoon = Autoballoon(self)
        self.storage = StoragePool()
        self.guests: dict[int, Guest] = {}
        self._names: dict[str, int] = {}  # of the domains, and of those that are being made
        self.autopsies: dict[int, Autopsy] = {}
        self.obituaries: OrderedDict[int, Obituary] = OrderedDict()
        self.log: deque[LogEntry] = deque(maxlen=_LOG_LINES)
        self.log_seq = 0
        self.last_view: Callable[[Guest], object] = lambda guest: None
        self._listeners: list[Callable[[str, int], None]] = []
        self._next_domid = 1
        self._stopping = False
        self._lock = threading.RLock()
        self.looking = threading.RLock()
        """Whoever holds it finds the domains of `guests` whole: none is taken away meanwhile. Taken before all other locks."""
        self._leaving = 0  # taken from `guests`, and not given back yet
        self._left = threading.Condition(self._lock)
        self._ends = Ends(self)

    def start(self) -> None:
        self.cpus.start()
        self._ends.start()

    def stop(self) -> None:
        """Destroy all domains, wait for those that end by themselves, and join the threads."""
        self.autoballoon.turn(False)
        with self._lock:
            self._stopping = True  # none is made any more, none restarted
        for guest in list(self.guests.values()):
            self.take_away(guest, "destroyed")  # nothing when it has just ended by itself
        self._ends.stop()
        with self._left:
            self._left.wait_for(lambda: not self._leaving)
        if self.xenstored is not None:
            self.xenstored.close()
        self.cpus.stop()
        self.networks.close()

    def serve_store(self, path: str) -> None:
        """See Host.serve_store."""
        self.xenstored = serve(self.store, path, lambda level, text: self.say(level, 0, text))

    # --- telling ---------------------------------------------------------------------------------------------------------------

    def listen(self, callback: Callable[[str, int], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def tell(self, kind: str, domid: int) -> None:
        for callback in tuple(self._listeners):
            callback(kind, domid)

    def say(self, level: str, domid: int, text: str) -> None:
        """A line for the host's log; what a guest wrote in it is made printable."""
        shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)[:500]
        with self._lock:
            self.log_seq += 1
            self.log.append(LogEntry(self.log_seq, time.time(), domid, level, shown, self._name_of(domid)))
        self.tell("log", domid)

    def _name_of(self, domid: int) -> str:
        """The name of a domain that lives or has an obituary; else empty."""
        guest, kept = self.guests.get(domid), self.obituaries.get(domid)
        return guest.name if guest is not None else kept.config.name if kept is not None else ""

    # --- looking ---------------------------------------------------------------------------------------------------------------

    def guest(self, domid: int) -> Guest:
        guest = self.guests.get(domid)
        if guest is None:
            raise UserError(f"domain {domid} does not exist", fix="xenconsole shows those that do" if domid else "")
        return guest

    def find(self, name: str) -> int:
        """A domain by number or name, as xl finds it."""
        if name.isdecimal() and len(name) < 10 and int(name) in self.guests:
            return int(name)
        domid = self._names.get(name, 0)
        if domid not in self.guests:
            raise UserError(f"no domain is called {name!r}")
        return domid

    def domain_of(self, domid: int) -> Domain | None:
        """A domain as another sees it. Domain-0 grants nothing."""
        guest = self.guests.get(domid)
        return guest.domain if guest is not None else None

    def domid_exists(self, domid: int) -> bool:
        return domid == 0 or domid in self.guests

    # --- verbs ---------------------------------------------------------------------------------------------------------------

    def create(self, config: DomainConfig, paused: bool, progress: Callable[[str], None]) -> int:
        with self._lock:
            if config.name in self._names:
                raise UserError(f"a domain called {config.name!r} exists", where=config.file, fix="destroy it or give another name=")
            if len(self.guests) >= MAX_DOMAINS:
                raise UserError(f"{MAX_DOMAINS} domains are the most")
            scheduling.check(self, config)
            domid = self._take_domid()
            self.pool.take(domid, config.memory_mib * 256)
            self._names[config.name] = domid
        try:
            config = replace(config, disks=tuple(self.storage.admit(disk) for disk in config.disks))
            guest = build_guest(config, domid, self.store, progress, self.networks)
        except BaseException:
            self._give_back(domid, config.name)
            raise
        domain = guest.domain
        domain.domid_exists = self.domid_exists
        domain.peer = self.domain_of
        domain.sinks.log = lambda level, text: self.say(level, domid, text)
        domain.sinks.console_io = lambda data: self._emergency(guest, data)
        guest.on_output = lambda: self.tell("console", domid)
        guest.on_ended = self._ends.put
        guest.connection.on_output = lambda: domain.post(ToBackend("xenstore", b""))
        domain.paused = int(paused)
        guest.memory = DomainMemory(guest, self.pool)
        try:
            with self._lock:
                if self._stopping:
                    raise UserError("the host is ending")
                scheduling.register(self, guest, config)
                self.guests[domid] = guest
        except UserError:  # or its pool changed meanwhile
            guest.close()
            self._give_back(domid, config.name)
            raise
        domain.wake = lambda _domain: self.cpus.wake(guest)  # no sooner: it could end before anybody knows it
        self.say("info", domid, f"{config.name} created from {config.file}" + (", paused" if paused else ""))
        self.tell("state", domid)
        self.cpus.wake(guest)
        return domid

    def _give_back(self, domid: int, name: str) -> None:
        """What `create` took for a domain that could not be made."""
        with self._lock:
            del self._names[name]
        self.pool.give(domid)

    def pause(self, domid: int) -> None:
        guest = self.guest(domid)
        in_turn(guest, lambda: setattr(guest.domain, "paused", 1))
        self.tell("state", domid)

    def unpause(self, domid: int) -> None:
        guest = self.guest(domid)
        in_turn(guest, lambda: setattr(guest.domain, "paused", 0))
        self.tell("state", domid)

    def shutdown(self, domid: int, reason: str) -> None:
        """Ask the guest by xenstore; what it makes of it is its own business."""
        if reason not in ("poweroff", "reboot", "suspend", "halt"):
            raise UserError(f"cannot ask a guest for {reason!r}", fix="poweroff or reboot")
        guest = self.guest(domid)
        path = f"/local/domain/{domid}/control/shutdown"
        guest.domain.post(ToBackend("xenstore", path.encode() + b"\0" + reason.encode()))
        self.say("info", domid, f"asked to {reason}")

    def rename(self, domid: int, name: str) -> None:
        if not is_name(name):
            raise UserError(f"{ascii(name)[:100]} will not do as a name", fix=f"1 to {MAX_NAME} printable characters, no '/'")
        with self.looking:  # nodes of one that has gone would stay
            with self._lock:
                guest = self.guest(domid)
                if self._names.get(name, domid) != domid:
                    raise UserError(f"a domain called {name!r} exists")
                del self._names[guest.name]
                self._names[name] = domid
                guest.name = guest.domain.name = name
                guest.config = replace(guest.config, name=name)
            for top in (f"/local/domain/{domid}", f"/vm/{guest.config.uuid}"):
                self.store.write(f"{top}/name", name)
        self.tell("state", domid)

    def set_memory(self, domid: int, kib: int) -> None:
        """mem-set: see memoryverbs."""
        with self.looking:  # what is set aside for one that has gone would never come back
            self.guest(domid).memory.set(kib)
        self.say("info", domid, f"memory target set to {kib >> 10} MiB")
        self.tell("state", domid)

    def set_max_memory(self, domid: int, kib: int) -> None:
        """mem-max: see memoryverbs."""
        with self.looking:
            self.guest(domid).memory.set_most(kib, self.store)
        self.say("info", domid, f"memory maximum set to {kib >> 10} MiB")
        self.tell("state", domid)

    def destroy(self, domid: int) -> None:
        self.take_away(self.guest(domid), "destroyed")

    def snapshot(self, domid: int, name: str) -> Snapshot:
        guest = self.guest(domid)
        taken = in_turn(guest, lambda: guest.album.take(name))
        self.say("info", domid, f"snapshot {taken.name} taken")
        self.tell("state", domid)
        return taken

    def restore(self, domid: int, name: str) -> Snapshot:
        """Back to a snapshot; returns the snapshot of the present that was taken first. A crashed domain comes to life again."""
        guest = self.guest(domid)
        present = in_turn(guest, partial(self._restore, guest, name))
        self.say("info", domid, f"restored to {name}; the present is kept as {present.name}")
        self.tell("state", domid)
        self.cpus.wake(guest)
        return present

    def _restore(self, guest: Guest, name: str) -> Snapshot:
        present = guest.album.restore(name)
        self.autopsies.pop(guest.domid, None)
        return present

    def forget(self, domid: int, name: str) -> None:
        guest = self.guest(domid)
        in_turn(guest, lambda: guest.album.forget(name))
        self.tell("state", domid)

    # --- ends ----------------------------------------------------------------------------------------------------------------

    def _emergency(self, guest: Guest, data: bytes) -> None:
        """console_io: into the domain's transcript and the host's log."""
        guest.transcript.append(data, serial=True)
        for line in data.decode("utf-8", "replace").splitlines():
            if line.strip():
                self.say("debug", guest.domid, line.rstrip())
        self.tell("console", guest.domid)

    def _failed(self, actor: Actor, failure: BaseException) -> None:
        """A turn raised: our own bug. The domain is treated as crashed and the failure told."""
        self.say("error", actor.domid, f"the hypervisor failed: {type(failure).__name__}: {failure}")
        guest = self.guests.get(actor.domid)
        if guest is not None:
            guest.fail(f"hypervisor bug: {type(failure).__name__}: {failure}")

    def autopsy(self, guest: Guest) -> Autopsy | None:
        """How a crashed domain lies, examined when it is asked for first; None of one that has not crashed. UserError."""
        if guest.domain.ended == "crash" and guest.domid not in self.autopsies:
            in_turn(guest, partial(self._examine, guest))
        return self.autopsies.get(guest.domid)

    def _examine(self, guest: Guest) -> None:
        """In a turn of its, as a restore is: nothing is kept of a crash that was undone."""
        with self._lock:
            if guest.domain.ended == "crash" and self.guests.get(guest.domid) is guest:
                self.autopsies[guest.domid] = examined(guest.domain)

    def take_away(self, guest: Guest, reason: str, tell: bool = True) -> Obituary | None:
        """Take a domain off its CPU, keep its obituary, give everything back. None when that is being done already."""
        domid = guest.domid
        with self.looking, self._lock:
            if self.guests.get(domid) is not guest:
                return None
            obituary = Obituary(domid, guest.config, reason, guest.transcript, self.autopsies.get(domid), -1, self.last_view(guest))
            self.obituaries[domid] = obituary  # first: at no moment is it neither alive nor known to be gone
            del self.guests[domid], self._names[guest.name]
            self.autopsies.pop(domid, None)
            while len(self.obituaries) > _OBITUARIES:
                self.obituaries.popitem(last=False)
            self._leaving += 1
        try:
            self._give_all_back(guest)
        finally:
            with self._left:
                self._leaving -= 1
                self._left.notify_all()
        if reason == "destroyed":
            self.say("info", domid, f"{guest.name} destroyed")
        if tell:
            self.tell("gone", domid)
        return obituary

    def _give_all_back(self, guest: Guest) -> None:
        guest.domain.core.stop()
        self.cpus.remove(guest)
        guest.close()
        trim_heap()
        guest.domain.remnants.watch(partial(self.pool.resize, guest.domid))

    def _take_domid(self) -> int:
        """The next number; after the last, those that are free come again."""
        for _try in range(_FIRST_RESERVED):
            domid = self._next_domid
            self._next_domid = domid % (_FIRST_RESERVED - 1) + 1
            if domid not in self.guests and not self.pool.claimed(domid):
                return domid
        raise UserError("every domain number is in use")
