"""The host as consoles see it: the toolstack's verbs, and its state as frozen views.

Cheap views (the overview) are made from counters that workers publish; the detailed ones are questions that a domain's holder answers
between two slices, which may take some milliseconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

from msgspec.structs import replace

from emulator import __version__
from emulator.control import portraits
from emulator.control.hoststorage import HostStorage
from emulator.control.links import Links
from emulator.control.memoryviews import FrameView
from emulator.control.networkportraits import Networkscape
from emulator.control.networkviews import NetworksView, PacketTail
from emulator.control.schedulingviews import QueuedView, RunQueueView
from emulator.control.views import (
    ConsoleChunk,
    CpuView,
    CrashView,
    DomainDetail,
    DomainView,
    HostView,
    LogLine,
    Overview,
    PoolView,
    RingTraffic,
    SnapshotView,
    VcpuSummary,
)
from emulator.dom0 import blockverbs, coredump, memoryverbs, networkverbs, overhead, scheduling
from emulator.dom0.balloonpolicy import PolicyReport
from emulator.dom0.config import DomainConfig
from emulator.dom0.cpupools import CpuPools
from emulator.dom0.files import user_path
from emulator.dom0.guest import Guest
from emulator.dom0.network import UplinkSpec
from emulator.dom0.network.services import parse_services
from emulator.dom0.obituaries import Autopsy
from emulator.dom0.overhead import Overhead
from emulator.dom0.toolstack import Toolstack
from emulator.dom0.turns import in_turn
from emulator.errors import UserError
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.scheduler import DEFAULT_SCHEDULER, Queued
from emulator.hypervisor.timekeeping import RUNNABLE
from emulator.hypervisor.trace import Trace
from emulator.hypervisor.vcpu import Vcpu
from emulator.machine import footprint

_ASK_SECONDS = 10.0
_STRIP_NS = 1_000_000_000
_TRACE_LINGERS_NS = 3_000_000_000


@dataclass(frozen=True)
class HostObituary:
    """What is kept of a domain that is gone."""

    domain: DomainView
    reason: str
    crash: CrashView | None
    restarted_as: int


class Host:
    """Thread-safe; raises UserError for what the user can mend."""

    def __init__(self, *, pool_kib: int, cpus: int, name: str = "", trace: bool = True, scheduler: str = DEFAULT_SCHEDULER) -> None:
        self._tools = Toolstack(pool_kib=pool_kib, cpus=cpus, scheduler=scheduler)
        self._tools.last_view = self._domain_view
        self.storage = HostStorage(self._tools)
        self._name = name or os.uname().nodename
        self._trace = trace
        self._networkscape, self._looking = Networkscape(self._tools.networks), threading.Lock()
        self._links = Links()
        self._traced: dict[int, int] = {}  # domid -> monotonic ns of the last look
        self._started_unix, self._started = time.time(), time.monotonic_ns()

    def start(self) -> None:
        self._empty_kib = footprint.resident_kib()
        self._tools.start()

    def stop(self) -> None:
        self._tools.stop()

    def serve_store(self, path: str) -> None:
        """Serve the store on a Unix socket at `path`; "": on one of our own if that is possible, "off": on none. UserError."""
        self._tools.serve_store(path)

    def listen(self, callback: Callable[[str, int], None]) -> Callable[[], None]:
        return self._tools.listen(callback)

    # --- verbs ---------------------------------------------------------------------------------------------------------------

    def create(self, config: DomainConfig, *, paused: bool = False, progress: Callable[[str], None] | None = None) -> int:
        return self._tools.create(config, paused, progress or (lambda text: None))

    def pause(self, domid: int) -> None:
        self._tools.pause(domid)

    def unpause(self, domid: int) -> None:
        self._tools.unpause(domid)

    def destroy(self, domid: int) -> None:
        self._tools.destroy(domid)

    def shutdown(self, domid: int, reason: str) -> None:
        self._tools.shutdown(domid, reason)

    def dump_core(self, domid: int, path: str) -> str:
        return coredump.write(self._tools, self._tools.guest(domid), user_path(path, "dump-core").absolute())

    def rename(self, domid: int, name: str) -> None:
        self._tools.rename(domid, name)

    def find(self, name_or_id: str) -> int:
        return self._tools.find(name_or_id)

    def snapshot(self, domid: int, name: str) -> SnapshotView:
        return portraits.snapshot(domid, self._tools.snapshot(domid, name))

    def restore(self, domid: int, name: str) -> SnapshotView:
        return portraits.snapshot(domid, self._tools.restore(domid, name))

    def snapshots(self, domid: int) -> tuple[SnapshotView, ...]:
        return tuple(portraits.snapshot(domid, taken) for taken in self._tools.guest(domid).album.snapshots())

    def set_memory(self, domid: int, kib: int) -> None:
        self._tools.set_memory(domid, kib)

    def set_max_memory(self, domid: int, kib: int) -> None:
        self._tools.set_max_memory(domid, kib)

    def set_min_memory(self, domid: int, kib: int) -> None:
        memoryverbs.set_minimum(self._tools, domid, kib)

    def set_balloon_policy(self, on: bool) -> None:
        self._tools.autoballoon.turn(on)

    def balloon_policy(self) -> PolicyReport:
        return self._tools.autoballoon.report()

    def forget(self, domid: int, name: str) -> None:
        self._tools.forget(domid, name)

    @property
    def cpupools(self) -> CpuPools:
        return self._tools.cpupools

    def sched(self, order: scheduling.SchedOrder) -> str:
        return scheduling.order(self._tools, order)

    def pin(self, domid: int, vcpu: str, hard: str, soft: str) -> str:
        return scheduling.pin(self._tools, domid, vcpu, hard, soft)

    def set_vcpus(self, domid: int, count: int) -> None:
        scheduling.set_vcpus(self._tools, domid, count)

    def block_attach(self, domid: int, spec: str) -> str:
        """Plug a disk in, by xl's disk specification; its name in the guest."""
        return blockverbs.attach(self._tools.guest(domid), spec, self._tools.storage).spec.vdev

    def block_detach(self, domid: int, vdev: str, force: bool) -> str:
        """Take a disk away, with the guest's consent or by force; its name."""
        return blockverbs.detach(self._tools.guest(domid), vdev, force)

    def block_list(self, domid: int) -> tuple[blockverbs.DiskReport, ...]:
        return blockverbs.reports(self._tools.guest(domid))

    def network_attach(self, domid: int, spec: str) -> str:
        return networkverbs.attach(self._tools.guest(domid), spec)

    def network_detach(self, domid: int, which: str, force: bool) -> str:
        return networkverbs.detach(self._tools.guest(domid), which, force)

    def network_list(self, domid: int) -> tuple[networkverbs.VifReport, ...]:
        return networkverbs.reports(self._tools.guest(domid))

    def network_uplink(self, network: str, subnet: str, services: str) -> None:
        """Put an uplink for guests of `subnet` on a network, with services of the host's loopback for all; "" takes it away."""
        self._tools.networks.set_uplink(network, UplinkSpec(subnet, services=parse_services(services)) if subnet else None)

    def capture(self, domid: int, which: str, path: str, mib: int) -> str:
        """End the capture of an interface, or start one of at most `mib` MiB; one line that says so."""
        return networkverbs.toggle_capture(self._tools.guest(domid), which, path, mib << 20)

    # --- consoles ------------------------------------------------------------------------------------------------------------

    def console_write(self, domid: int, data: bytes) -> int:
        return self._tools.guest(domid).type(data)

    def console_read(self, domid: int, offset: int, limit: int = 65536) -> ConsoleChunk:
        guest = self._tools.guests.get(domid)
        if guest is not None:
            transcript = guest.transcript
        else:
            gone = self._tools.obituaries.get(domid)
            if gone is None:
                raise UserError(f"domain {domid} does not exist")
            transcript = gone.transcript
        start, data, end = transcript.read(offset, max(0, limit))
        return ConsoleChunk(domid, start, data, end, transcript.serial(start, start + len(data)))

    def obituary(self, domid: int) -> HostObituary | None:
        gone = self._tools.obituaries.get(domid)
        if gone is None or not isinstance(gone.last, DomainView):
            return None
        crash = self._crash(gone.autopsy, gone.transcript.tail(2000)) if gone.autopsy else None
        return HostObituary(gone.last, gone.reason, crash, gone.restarted_as)

    # --- views ---------------------------------------------------------------------------------------------------------------

    def overview(self, since_log: int = 0) -> Overview:
        tools = self._tools
        log = tuple(LogLine(e.seq, e.time_unix, e.domid, e.level, e.text, e.name) for e in list(tools.log) if e.seq > since_log)
        with tools.looking:
            domains = (self._domain0(), *(self._row(guest) for guest in list(tools.guests.values())))
        return Overview(self._host_view(), domains, log, tools.log_seq)

    def overhead(self) -> Overhead:
        """What domains cost beside their memory. Some ten ms with a thousand of them."""
        with self._tools.looking:
            return overhead.measure(list(self._tools.guests.values()), self._empty_kib)

    def _host_view(self) -> HostView:
        pool, cpus = self._tools.pool, self._tools.cpus
        views = tuple(CpuView(n, cpus.busy_ns[n], cpus.running[n]) for n in range(cpus.count))
        return HostView(name=self._name, version=__version__, xen_version="4.17", started_unix=self._started_unix,
                        uptime_ns=time.monotonic_ns() - self._started, total_kib=pool.total * 4, free_kib=pool.free * 4, cpus=views,
                        engine_pid=os.getpid(), engine_cpu_ns=time.process_time_ns(),
                        engine_rss_kib=footprint.resident_kib(), scheduler=cpus.scheduler,
                        pools=tuple(PoolView(*astuple(report)) for report in self.cpupools.reports()),
                        xenstored=str(self._tools.xenstored.path) if self._tools.xenstored else "")  # fmt: skip

    def _domain0(self) -> DomainView:
        """Domain-0 is this engine: its CPU time is what the guests did not use."""
        guests = sum(g.domain.stats.cpu_ns for g in list(self._tools.guests.values()))
        own = max(0, time.process_time_ns() - guests)
        rss = footprint.resident_kib()
        return DomainView(0, name="Domain-0", uuid="00000000-0000-0000-0000-000000000000", state="r-----", started_unix=self._started_unix,
                          cpu_ns=own, mem_kib=rss, maxmem_kib=rss, vcpus=(VcpuSummary(0, "r", 0, own),))  # fmt: skip

    def _row(self, guest: Guest) -> DomainView:
        """The view of a domain in the table: a domain that slept since the last look is not looked at again."""
        domain = guest.domain
        if domain.domid in self._tools.cpus.running:
            return self._domain_view(guest)
        seat = self._tools.cpus.seat(guest)
        share = (seat[0].weight, seat[0].cap, seat[0].affinity, seat[0].soft, *seat[1:]) if seat is not None else ()
        depends = (guest.turns, domain.paused, domain.ended, guest.name, guest.config, guest.transcript.end, domain.reservation.owned,
                   guest.memory.most, len(guest.album.snapshots()), share)  # fmt: skip
        last = guest.last_view
        if last is not None and last[0] == depends and isinstance(last[1], DomainView):
            return last[1]
        view = self._domain_view(guest)
        guest.last_view = depends, view
        return view

    def _domain_view(self, guest: Guest) -> DomainView:
        domain = guest.domain
        running = domain.domid in self._tools.cpus.running
        ended = domain.ended
        blocked = not running and not ended and not domain.paused and domain.blocked
        letters = (("r", running), ("b", blocked), ("p", bool(domain.paused)), ("s", bool(ended) and ended != "crash"),
                   ("c", ended == "crash"), ("d", False))  # fmt: skip
        state = "".join(letter if on else "-" for letter, on in letters)
        shares = self._tools.cpus.describe(guest)
        seat = self._tools.cpus.seat(guest)
        home = (seat[1], scheduling.show_cpus(seat[0].affinity), scheduling.show_cpus(seat[0].soft)) if seat is not None else ("", "all", "all")
        vcpus = tuple(self._vcpu_summary(domain, v, running, shares) for v in domain.vcpus)
        stats, console = domain.stats, guest.console
        received, sent = guest.vifs.traffic()
        read, written = guest.disks.traffic()
        return DomainView(
            domain.domid, name=guest.name, uuid=guest.config.uuid, state=state, shutdown=ended, started_unix=guest.started_unix,
            cpu_ns=stats.cpu_ns, mem_kib=domain.reservation.owned * 4, maxmem_kib=guest.memory.most * 4, vcpus=vcpus,
            hypercalls=stats.hypercalls, events=domain.events.sent, faults=stats.page_faults,
            traffic=RingTraffic(console_in=console.bytes_in, console_out=console.bytes_out, net_rx=received, net_tx=sent,
                                block_read=read, block_write=written),
            pool=home[0], affinity=home[1], soft_affinity=home[2],
            console_end=guest.transcript.end,
            console_bell=guest.transcript.bells, crash=domain.crash_reason, config_file=guest.config.file, snapshots=len(guest.album.snapshots()),
        )  # fmt: skip

    @staticmethod
    def _vcpu_summary(domain: Domain, vcpu: Vcpu, running: bool, shares: Queued | None) -> VcpuSummary:
        if not vcpu.up:
            state = "d"
        elif domain.ended:
            state = "c" if domain.ended == "crash" else "s"
        elif domain.paused:
            state = "p"
        else:
            state = "b" if vcpu.blocked else "r" if running and vcpu is domain.current else "-"
        kept = vcpu.accounting
        steal = domain.time.spent(vcpu)[RUNNABLE]
        share = (shares.credit, shares.priority, shares.weight, shares.cap) if shares is not None else (0, "", 0, 0)
        return VcpuSummary(vcpu.number, state, kept.cpu, kept.guest_ns, kept.hypervisor_ns, *share, steal)

    def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        if domid == 0:
            links = self._links.gather(list(self._tools.guests.values())) if "links" in parts else ()
            return DomainDetail(self._domain0(), runqueue=self._run_queue() if "runqueue" in parts else None, links=links)
        guest = self._tools.guest(domid)
        self._mind_trace(guest, "trace" in parts)
        filled: dict[str, Any] = {}
        asked = [part for part in parts if part in portraits.QUESTIONS]
        if asked:
            filled |= in_turn(guest, lambda: {part: portraits.QUESTIONS[part](guest) for part in asked}, _ASK_SECONDS)
        if "trace" in parts and (trace := guest.domain.trace) is not None:
            filled["trace"] = in_turn(guest, lambda: portraits.trace(guest.domain, trace, since_trace), _ASK_SECONDS)
        if "rings" in parts:
            filled["flows"] = portraits.flows(guest)
        if "config" in parts:
            filled["config"] = portraits.config(guest.config)
        if "xenstore" in parts:
            filled["xenstore"] = tuple(self._tools.store.subtree(f"/local/domain/{domid}"))
        if "crash" in parts and (autopsy := self._tools.autopsy(guest)) is not None:
            filled["crash"] = self._crash(autopsy, guest.transcript.tail(2000))
        with self._tools.looking:
            return DomainDetail(self._domain_view(self._tools.guest(domid)), **filled)  # it may have gone while its answers came

    def frame(self, domid: int, pfn: int) -> FrameView:
        """One frame looked at closely: what it is and who maps it where."""
        guest = self._tools.guest(domid)
        return in_turn(guest, lambda: portraits.frame(guest, pfn), _ASK_SECONDS)

    def networks(self) -> NetworksView:
        """All networks and all interfaces on them; no domain is asked."""
        with self._looking:
            return self._networkscape.view(list(self._tools.guests.values()))

    def packets(self, network: str, source: str = "", since: int = 0, most: int = 100) -> PacketTail:
        """The last frames of a network, or of its port `source`, in words."""
        with self._looking:
            return self._networkscape.tail(network, source, since, most)

    def _run_queue(self) -> RunQueueView:
        cpus, now = self._tools.cpus, time.monotonic_ns()
        held, queue = cpus.standing()
        on_cpu: list[QueuedView] = []
        waiting: list[QueuedView] = []
        for cpu, queued in held:
            first, *others = self._runnable(queued) or [QueuedView(queued.name, queued.credit, queued.priority, queued.weight, queued.cap)]
            on_cpu.append(replace(first, cpu=cpu))
            waiting += others
        waiting += [view for queued in queue for view in self._runnable(queued)]
        stints = tuple((s.cpu, s.domid, s.began - now, s.ended - now) for s in tuple(cpus.history) if now - s.ended < _STRIP_NS)
        return RunQueueView(cpus.scheduler, tuple(waiting), stints, tuple(on_cpu))

    def _runnable(self, of: Queued) -> list[QueuedView]:
        """The vCPUs of a domain that could run, the one its turn begins with first."""
        with self._tools.looking:
            guest = self._tools.guests.get(of.name)
            if guest is None or guest.domain.ended:
                return []
            first = guest.domain.current
            vcpus = [first, *(vcpu for vcpu in guest.domain.vcpus if vcpu is not first and vcpu.can_run)]
        shares = of.credit, of.priority, of.weight, of.cap
        return [QueuedView(of.name, *shares, vcpu.last_hypercall, vcpu.number, vcpu is not first) for vcpu in vcpus]

    def _mind_trace(self, guest: Guest, wanted: bool) -> None:
        """Tracing runs while somebody looks, and a little longer; then it is put away."""
        now, domain = time.monotonic_ns(), guest.domain
        if wanted and self._trace:
            self._traced[domain.domid] = now
            if domain.trace is None:
                domain.trace = Trace()
        elif domain.trace is not None and now - self._traced.get(domain.domid, 0) > _TRACE_LINGERS_NS:
            domain.trace = None

    @staticmethod
    def _crash(autopsy: Autopsy, tail: bytes) -> CrashView:
        view = portraits.vcpu_view(autopsy.vcpu, autopsy.last_trap, autopsy.last_hypercall)
        return CrashView(autopsy.reason, view, tail, autopsy.time_unix)
