"""A guest: a domain with what Domain-0 runs for it (console, xenstore), and the pace it is run at."""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

from emulator.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from emulator.abi.xen import XENSTORE_REQ_CONS
from emulator.dom0.backends.block.disks import GuestDisks, close_images, open_disks
from emulator.dom0.backends.console import MAX_QUEUED_INPUT, ConsoleBackend
from emulator.dom0.backends.net.vifs import GuestVifs
from emulator.dom0.builder import BootIds, load_kernel, load_ramdisk, plan_domain, write_domain
from emulator.dom0.config import DomainConfig
from emulator.dom0.files import read_file
from emulator.dom0.memoryverbs import DomainMemory
from emulator.dom0.network import Networks
from emulator.dom0.snapshots import Album
from emulator.dom0.transcript import Transcript
from emulator.dom0.xenstore import Store, XenstoreRing, standard_nodes
from emulator.dom0.xenstore.recorded import Said, Words
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.events import INTERDOMAIN, Port
from emulator.hypervisor.mailbox import ToBackend
from emulator.hypervisor.memory.frames import WRITABLE
from emulator.hypervisor.spec import DomainSpec
from emulator.machine.pool import MemoryPool

_FIRST_RATE = 1.0  # counts a ns, until measured
_MIN_BUDGET = 20_000
_SMALL_FRAMES = 64 * 256
_SMALL_BUFFER, _BUFFER = 1 << 20, 32 << 20


class Guest:
    """Built and ready to run. An actor for `machine.PhysicalCpus`."""

    def __init__(self, domain: Domain, config: DomainConfig, store: Store, ports: tuple[int, int], mfns: tuple[int, int],
                 networks: Networks) -> None:  # fmt: skip
        self.domain, self.config, self._store = domain, config, store
        self.name = config.name
        self.started_unix = time.time()
        self.transcript = Transcript()
        self.on_output: Callable[[], None] = lambda: None
        self.on_ended: Callable[[Guest], None] = lambda guest: None
        self._told = False
        self.turns = 0
        self.last_view: tuple[object, object] | None = None  # what the last overview said, and what it depended on
        self._epoch = time.monotonic_ns() - max(0, time.time_ns() - domain.spec.wallclock_ns)  # its creation, by the real clock
        self._rate = _FIRST_RATE
        self.idle_since = time.monotonic_ns()  # when its last turn ended
        self.rest_wanted = False  # give the core's instance back at the end of the next turn, if there is nothing to run
        self._left_at = 0  # when a turn ended in which there was more to run (monotonic ns)
        console_port, store_port = ports
        events = domain.events
        self.console = ConsoleBackend(domain.memory.frame(mfns[0]), lambda: events.set_pending(console_port),
                                      lambda: events.set_pending_late(console_port), self._said)  # fmt: skip
        self.connection = store.connect(domain.domid)
        self.ring = XenstoreRing(domain.memory.frame(mfns[1]), self.connection)
        self._store_port = store_port
        events.backends["console"] = self.console.kick
        events.backends["xenstore"] = self.kick_store
        domain.receivers["console"] = self._typed
        domain.receivers["xenstore"] = self._store_written
        domain.receivers["xenstore-said"] = cast("Callable[[bytes], None]", self._store_said)
        self._to_be_said = False  # a message is on its way
        domain.sinks.console_io = self._said
        self.disks = GuestDisks(domain, store)
        self.vifs = GuestVifs(domain, store, networks)
        self.console_mfn, self.store_mfn = mfns
        self.console_port, self.store_port = ports
        self._typing = threading.Lock()
        self._posted = 0  # bytes typed that the holder has not taken yet
        self._ring_seen = (0, 0, 0)
        self.album = Album(self)
        self.memory = DomainMemory(self, MemoryPool(domain.reservation.e820_frames))  # a pool of its own, until the host's takes its place

    @property
    def domid(self) -> int:
        return self.domain.domid

    # --- the actor -----------------------------------------------------------------------------------------------------------

    def turn(self, cpu: int, slice_ns: int) -> int | None:
        """See machine.seats.Actor."""
        domain = self.domain
        now = time.monotonic_ns()
        stolen = now - self._left_at if self._left_at else 0
        domain.current.accounting.cpu = cpu
        count, spent = domain.clock.count, domain.stats.cpu_ns
        domain.slice(max(_MIN_BUDGET, int(self._rate * slice_ns)), now - self._epoch, stolen)
        spent = domain.stats.cpu_ns - spent
        if spent > 200_000:
            measured = (domain.clock.count - count) / spent
            self._rate += (measured - self._rate) * 0.25
        self._tell_end()
        self.turns += 1
        self.idle_since = time.monotonic_ns()
        self._left_at = self.idle_since if domain.runnable else 0
        wanted, self.rest_wanted = self.rest_wanted, False
        if wanted and not domain.runnable and not domain.attention:
            domain.core.rest()
        if domain.attention or self._left_at or (domain.mailbox and not domain.ended and not domain.paused):
            return 0
        if domain.ended or domain.paused:
            return None
        deadline = domain.time.next_deadline()
        return self._epoch + deadline if deadline else None

    def _tell_end(self) -> None:
        if self.domain.ended and not self._told:
            self._told = True
            self.on_ended(self)

    def fail(self, reason: str) -> None:
        """A turn raised, which is our own bug: it ends as a crash does, and still answers whoever asks."""
        self.domain.crash(reason)
        self._tell_end()

    def preempt(self) -> None:
        """See machine.seats.Actor."""
        self.domain.interrupt()

    # --- backends --------------------------------------------------------------------------------------------------------------

    def _said(self, data: bytes) -> None:
        self.transcript.append(data)
        self.on_output()

    def type(self, data: bytes) -> int:
        """Input for the console from any thread; how many bytes were accepted (the queue is bounded)."""
        with self._typing:
            accepted = data[: max(0, MAX_QUEUED_INPUT - self.console.waiting - self._posted)]
            if accepted and not self.domain.ended:
                self._posted += len(accepted)
                self.domain.post(ToBackend("console", accepted))
        return len(accepted)

    def _typed(self, data: bytes) -> None:
        with self._typing:
            self._posted = max(0, self._posted - len(data))
        self.console.send(data)

    def _store_written(self, data: bytes) -> None:
        """A node written by Domain-0's tools (path NUL value), or nothing but watch events that wait."""
        path, _, value = data.partition(b"\0")
        if path:
            self._store.write(path.decode(), value)
        self.kick_store()

    def kick_store(self) -> None:
        recorded = self.domain.recording is not None or self.domain.replaying
        if self.ring.kick(answering=not recorded):
            self.domain.events.set_pending(self._store_port)
        if recorded and self.connection.pending and not self._to_be_said:
            self._to_be_said = True
            self.domain.post(Said())

    def _store_said(self, words: list[Words]) -> None:
        """See xenstore.recorded."""
        self._to_be_said = False
        if self.domain.replaying:
            self.ring.repeat(words[0])
        else:
            words.append(self.ring.say())
        if words[0].data:  # else the ring is full, and the guest will say when it is not
            self.domain.events.set_pending(self._store_port)
            self.kick_store()

    # --- looking, saving ---------------------------------------------------------------------------------------------------

    def pfn_of(self, mfn: int) -> int:
        return self.domain.layout.pfn_of(mfn)

    def ring_watch(self, cons: int, prod: int, now_ns: int) -> int:
        """For how long input has waited in the ring while the guest moved no index, in ns."""
        if cons == prod or self._ring_seen[:2] != (cons, prod):
            self._ring_seen = (cons, prod, now_ns)
        return now_ns - self._ring_seen[2]

    def store_indices(self) -> tuple[int, int, int, int]:
        """req_cons, req_prod, rsp_cons, rsp_prod of the xenstore ring."""
        page = self.domain.memory.frame(self.store_mfn)
        cons, prod, rsp_cons, rsp_prod = struct.unpack_from("<4I", page, XENSTORE_REQ_CONS)
        return cons, prod, rsp_cons, rsp_prod

    def save_backends(self) -> dict[str, Any]:
        devices = {"disks": self.disks.save(), "vifs": self.vifs.save()}
        return {"console": self.console.save(), "ring": self.ring.save(), "store": self._store.save_domain(self.domid), **devices}

    def check_backends(self, state: dict[str, Any]) -> None:
        """UserError when the backends cannot go back to `state`."""
        self.disks.check(state["disks"])
        self.vifs.check(state["vifs"])

    def load_backends(self, state: dict[str, Any]) -> None:
        self.console.load(state["console"])
        self.disks.pause()
        self.vifs.pause()
        self._store.load_domain(self.domid, state["store"])
        self.disks.load(state["disks"])
        self.vifs.load(state["vifs"])
        self.ring.load(state["ring"])
        self._store.restored(self.domid)
        self._told = self._to_be_said = False

    def close(self) -> None:
        """Give everything back; no worker may hold it. Waits until what the disks were given is written."""
        self.vifs.close()
        self.disks.close()
        self._store.release(self.domid)
        self.domain.close()


def build_guest(config: DomainConfig, domid: int, store: Store, progress: Callable[[str], None] = lambda text: None,
                networks: Networks | None = None) -> Guest:  # fmt: skip
    """Read, plan, and write a new domain. Raises UserError for what the user can mend; nothing is left behind then."""
    networks = networks or Networks()
    frames, maximum = config.memory_mib * 256, max(config.maxmem_mib, config.memory_mib) * 256
    progress(f"reading {config.kernel}")
    image = load_kernel(read_file(config.kernel, "kernel"), source=str(config.kernel))
    ramdisk = load_ramdisk(read_file(config.ramdisk, "ramdisk"), source=str(config.ramdisk)) if config.ramdisk else b""
    layout = plan_domain(image, nr_pages=frames, ramdisk=ramdisk, cmdline=config.cmdline, ramdisk_source=str(config.ramdisk or ""))
    progress(f"building {config.name}: {config.memory_mib} MiB")
    spec = DomainSpec(domid, config.name, uuid.UUID(config.uuid).bytes, frames, maximum, config.maxvcpus, wallclock_ns=time.time_ns(),
                      translation_buffer=_SMALL_BUFFER if frames < _SMALL_FRAMES else _BUFFER)  # fmt: skip
    images = open_disks(config.disks)
    try:
        domain = Domain(spec)
    except BaseException:
        close_images(images)
        raise
    try:
        ports = domain.events.allocate(Port(INTERDOMAIN, backend="console")), domain.events.allocate(Port(INTERDOMAIN, backend="xenstore"))
        ids = BootIds(domain.layout.shared_info_mfn, *ports, flags=0)
        state = write_domain(layout, image, ramdisk, domain.memory.octets, domain.p2m, ids)
        if layout.hypercall_pfn is not None:
            domain.write_hypercall_page(int(domain.p2m[layout.hypercall_pfn]))
        nodes = standard_nodes(domid, name=config.name, uuid=config.uuid, memory_kib=frames * 4, maxmem_kib=maximum * 4, vcpus=config.vcpus,
                               maxvcpus=config.maxvcpus,
                               console_gfn=state.console_mfn, console_port=ports[0], store_gfn=state.store_mfn, store_port=ports[1])  # fmt: skip
        store.introduce(domid, config.name, nodes=nodes)
        for ref, mfn in ((GNTTAB_RESERVED_CONSOLE, state.console_mfn), (GNTTAB_RESERVED_XENSTORE, state.store_mfn)):
            domain.grants.seed(ref, 0, mfn)  # as libxl leaves them, for a Domain-0 that maps by grant (xc_dom_gnttab_seed)
        domain.start(state.rip, state.rsp, state.rsi, state.cr3, state.kernel_sp, state.text)
        for mfn in (state.console_mfn, state.store_mfn):
            domain.tables.get_type(mfn, WRITABLE)  # Domain-0 maps them, for good: no table may be made of what it writes into
        guest = Guest(domain, config, store, ports, (state.console_mfn, state.store_mfn), networks)
    except BaseException:
        close_images(images)
        domain.close()
        store.release(domid)
        raise
    try:
        guest.ring.advertise()
        for number, disk in enumerate(config.disks):
            guest.disks.attach(disk, images[number])
        for vif in config.vifs:
            guest.vifs.attach(vif)
    except BaseException:
        guest.close()  # what was attached has ports and watches
        close_images(images)
        raise
    return guest
