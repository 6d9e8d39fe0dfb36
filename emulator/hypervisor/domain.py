"""A domain: an actor that owns its memory, its core and its vCPUs, and that only the worker holding it touches.

Whoever wants something of it posts a message (`post`) or asks a question (`ask`); both are served between two slices. A message may
change the domain and is logged; a question may not and leaves no trace.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import numpy as np

from emulator.abi import xen
from emulator.abi.xen import HYPERCALLS
from emulator.cpu import native
from emulator.cpu.core import GDT, Core
from emulator.hypervisor import crossing
from emulator.hypervisor.clock import Clock
from emulator.hypervisor.emulation import Emulator
from emulator.hypervisor.events import EventChannels
from emulator.hypervisor.grants.foreign_writes import ForeignWrites
from emulator.hypervisor.grants.mappings import Mappings
from emulator.hypervisor.grants.table import GrantTable
from emulator.hypervisor.hypercalls.page import hypercall_page
from emulator.hypervisor.layout import WINDOW_FRAMES, XenLayout, hypervisor_frames, permutation
from emulator.hypervisor.ldt import drop_ldt
from emulator.hypervisor.mailbox import Cut, Level, Logged, Mailbox, Message, PeerRequest, Rotate, Stage
from emulator.hypervisor.memory.descriptors import check_descriptor
from emulator.hypervisor.memory.frames import L4, WRITABLE, FrameTable
from emulator.hypervisor.memory.guestmem import GuestMemory
from emulator.hypervisor.memory.pagetables import PageTables
from emulator.hypervisor.memory.reservation import Reservation
from emulator.hypervisor.parting import Remnants, drain, part
from emulator.hypervisor.refusal import DomainCrash, Refusal, Restart
from emulator.hypervisor.rotation import Rotation
from emulator.hypervisor.spec import DomainSpec, Sinks, Stats
from emulator.hypervisor.timekeeping import Timekeeper
from emulator.hypervisor.trace import Trace
from emulator.hypervisor.traps import Traps, trap_name
from emulator.hypervisor.vcpu import Vcpu
from emulator.machine.memory import MachineMemory

T = TypeVar("T")
_LEVEL_GRAIN_NS: Final = 1_000


class Domain:
    """See the module. `ended`: empty while it lives, else why it ended (abi.xen.SHUTDOWN_REASONS)."""

    WRITABLE = WRITABLE

    def __init__(self, spec: DomainSpec) -> None:
        self.spec, self.domid, self.name, self.uuid = spec, spec.domid, spec.name, spec.uuid
        self.memory = MachineMemory(hypervisor_frames(spec.max_frames) + spec.max_frames, f"domain-{spec.domid}", WINDOW_FRAMES)
        self.layout = XenLayout(self.memory, spec.max_frames)
        self.frames = FrameTable(self.memory.frames)
        self.core = Core(self.memory.address, self.memory.size, translation_buffer=spec.translation_buffer)
        self.guest = GuestMemory(self.memory, self.frames, self.core)
        self.tables = PageTables(self.memory, self.frames, self.layout.xen_slots)
        self.clock = Clock(self.core.control)
        self.emulator = Emulator()
        self.p2m = permutation(spec.max_frames, self.layout.first_guest)
        self.reservation = Reservation(self.memory, self.frames, self.layout, self.core, self.p2m, spec.frames)
        self.tables.freed = self.reservation.give
        self.tables.descriptor_check = check_descriptor
        self.grants = GrantTable(self.domid, self.memory, self.frames, self.tables, self.layout.reserve)
        self.foreign_writes = ForeignWrites(self.core)
        self.mappings = Mappings(self, self.layout.window)
        shared = self.layout.shared_info_mfn << 12
        self.vcpus = [Vcpu(self, n, shared + n * xen.VCPU_INFO_SIZE if n < xen.LEGACY_MAX_VCPUS else 0) for n in range(spec.vcpus)]
        self.current = self.vcpus[0]
        self.current.take_core()
        self.events = EventChannels(self.memory.bytes, self.memory.words, shared, self.vcpus)
        self.stats, self.sinks = Stats(), Sinks()
        self.trace: Trace | None = None
        self.refusals: deque[tuple[int, str, int, str]] = deque(maxlen=200)  # (time ns, what, errno, reason)
        self.receivers: dict[str, Callable[[bytes], None]] = {}
        self.vm_assist = 0
        self.paused = 0
        self.ended = ""
        self.crash_reason = ""
        self.shutdown_code = -1  # the reason that the guest gave first, -1: none yet
        self.mailbox = Mailbox()
        self.recording: list[Logged] | None = None
        self.replaying = False
        self._holder = threading.get_ident()  # the thread in whose hands it is, its builder's at first; 0: nobody's
        self._stage = -1, Stage.NOT_BEGUN  # how far the turn at this count has come
        self._questions: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.attention = False
        self.yielded = False
        self.wake: Callable[[Domain], None] = lambda domain: None
        self.domid_exists: Callable[[int], bool] = lambda domid: domid == 0
        self.peer: Callable[[int], Domain | None] = lambda domid: None
        self.requests: deque[PeerRequest] = deque()
        self.remnants = Remnants()
        self.signals: set[Message] = set()  # events from other guests that wait in the mailbox
        self._open = True
        self._peer_lock = threading.Lock()
        self.time = Timekeeper(self)
        self.rotation = Rotation(self, self.core.save())
        self.core.on_trap = Traps(self).handle
        crossing.share_frames(self)
        for vcpu in self.vcpus:
            if vcpu.number < xen.LEGACY_MAX_VCPUS:
                vcpu.upcall_masked = True
            self.layout.map_gdt(vcpu.number, ())
        self.core.set_table(GDT, self.layout.gdt_address(0), (xen.RESERVED_GDT_PAGE + 1 << 12) - 1)
        self.time.write_clocks()

    # --- what others may call, from any thread ---------------------------------------------------------------------------------

    def post(self, message: Message) -> None:
        if self.replaying:
            return  # a backend woken again by what is replayed: what it said then is in the log
        self.mailbox.post(message)
        self._call()

    def post_peer(self, request: PeerRequest) -> None:
        """Something another domain asks of this one's grants or ports. It is served whether the domain runs, pauses or has ended."""
        with self._peer_lock:
            if self._open:
                self.requests.append(request)
                self._call()
                return
        self.remnants.hear(request)
        request.gone(self.domid)

    def peer_of(self, domid: int) -> Domain | None:
        """A domain that has grants: another, or this one."""
        return self if domid == self.domid else self.peer(domid)

    def post_if_open(self, message: Message) -> bool:
        """What another domain tells. False when this one is gone."""
        with self._peer_lock:
            if self._open:
                self.mailbox.post(message)
                self._call()
            return self._open

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """Have `question` answered by the holder between two slices. It must not change what the guest can see."""
        future: Future[T] = Future()
        with self._peer_lock:
            if self._open:
                self._questions.append((question, future))
                self._call()
            else:
                future.cancel()
        return future

    def held_here(self) -> bool:
        """Whether the calling thread holds it."""
        return self.replaying or self._holder == threading.get_ident()

    def interrupt(self) -> None:
        """End the running slice at the next block; nothing changes for the guest."""
        self.attention = True
        self.core.control[native.LIMIT] = 0

    def _call(self) -> None:
        self.interrupt()
        self.wake(self)

    # --- a slice -----------------------------------------------------------------------------------------------------------

    @property
    def runnable(self) -> bool:
        return not self.ended and not self.paused and not self.blocked

    @property
    def blocked(self) -> bool:
        """No vCPU has anything to do."""
        return not any(vcpu.can_run for vcpu in self.vcpus)

    def serve(self) -> None:
        """Answer the questions that wait."""
        self.attention = False
        while self._questions:
            question, future = self._questions.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(question())
                except BaseException as failure:  # noqa: BLE001 - the asker's to handle
                    future.set_exception(failure)
        while self.requests:
            self._apply(self.requests.popleft())

    def slice(self, budget: int, real_ns: int | None = None, stolen_ns: int = 0) -> None:
        """Serve questions and messages, then run the guest for at most `budget` counts. `real_ns`: the real clock; `stolen_ns`:
        for how long before it the domain would have run, but had no physical CPU."""
        self._holder = threading.get_ident()
        try:
            self._slice(budget, real_ns, stolen_ns)
        finally:
            self._holder = 0

    def _slice(self, budget: int, real_ns: int | None, stolen_ns: int) -> None:
        self.core.rouse()
        self.serve()
        if self.ended or self.paused:
            return
        if real_ns is not None and real_ns > self.clock.now() + _LEVEL_GRAIN_NS:
            self._apply(Level(real_ns, stolen_ns))
        if self.rotation.overdue():
            self._apply(Rotate())
        while (message := self.mailbox.take()) is not None:
            self._apply(message)
        self.advance(self.clock.count + budget)

    def _apply(self, message: Message) -> None:
        if self.recording is not None:
            at, stage = self._stage
            count = self.clock.count
            self.recording.append(Logged(count, message, stage if at == count else Stage.NOT_BEGUN))
            self._stage = -1, Stage.NOT_BEGUN
        message.apply(self)
        self.rotation.fresh = True

    def advance(self, limit: int) -> None:
        """The guest up to `limit`, turn by turn, timers fired when they are due."""
        while not self.ended:
            if (vcpu := self.choose()) is None:
                return
            self.clock.set_limit(limit)
            deadline = self.time.next_deadline()
            if deadline:
                self.clock.shorten(deadline)
            self.rotation.bound()
            if self.attention:
                return
            self._turn(vcpu)
            if self.yielded or self.clock.count >= limit:
                self.yielded = False
                return

    def choose(self) -> Vcpu | None:
        """The beginning of a turn: due timers fire, and the vCPU whose turn it is is loaded; None when none can run."""
        self.time.fire_timers()
        vcpu = None
        if not self.ended:
            try:
                vcpu = self.rotation.choose()
            except DomainCrash as crash:  # a first context whose segments have not even a failsafe callback
                self.crash(str(crash))
        self._stage = self.clock.count, Stage.CHOSEN
        return vcpu

    def _turn(self, vcpu: Vcpu) -> None:
        """Run the loaded vCPU to the core's limit. Events are delivered where something happened, not where somebody looked."""
        if self.rotation.fresh:
            self.rotation.fresh = False
            try:
                vcpu.deliver_events()
            except DomainCrash as crash:
                self.crash(str(crash))
                return
        self._stage = self.clock.count, Stage.DELIVERED
        if self.tables.stale:
            self.tables.stale = False
            self.core.flush_tlb()
        if self.foreign_writes.count:
            self.foreign_writes.forget()
        crossing.allow(self)
        if self.recording is not None and not (self.recording and self.recording[-1].count == self.clock.count):
            self.recording.append(Logged(self.clock.count, Cut()))
        began = time.perf_counter_ns()
        error = self.core.run()
        spent = time.perf_counter_ns() - began
        crossing.collect(self)
        self.stats.slices += 1
        self.stats.cpu_ns += spent
        vcpu.accounting.guest_ns += spent
        if error and not self.ended:
            self.crash(f"the processor cannot go on (Unicorn error {error}) at {self.core.rip:#x}")

    # --- what hypercalls do to it ----------------------------------------------------------------------------------------------

    def block(self, vcpu: Vcpu) -> None:
        vcpu.blocked = True
        self.time.runstate_changed(vcpu)
        self.core.stop()

    def yield_slice(self) -> None:
        """SCHEDOP_yield: another vCPU's turn, or another domain's."""
        self.yielded = not self.rotation.waiting()
        self.rotation.give_up()
        self.core.stop()

    def shutdown(self, reason: str) -> None:
        self.ended = reason
        self.core.stop()

    def crash(self, reason: str) -> None:
        """domain_crash: the domain ends where it stands, its state kept for whoever looks."""
        if not self.ended:
            self.crash_reason = reason
            self.sinks.log("error", f"crashed: {reason}")
            self.shutdown("crash")

    def refused(self, what: str, refusal: Refusal) -> None:
        """Keep a refusal for whoever looks."""
        self.refusals.append((self.clock.now(), what, refusal.errno, refusal.reason))

    def hypercall_totals(self) -> dict[str, int]:
        return {name: count for name, count in zip(HYPERCALLS, self.stats.by_number, strict=True) if name}

    def new_baseptr(self, vcpu: Vcpu, mfn: int) -> None:
        """MMUEXT_NEW_BASEPTR and MOV to CR3: the guest kernel's L4 (new_guest_cr3). Raises Refusal, and Restart like `get_type`."""
        self.tables.finish()
        old = vcpu.cr3_kernel
        if mfn == old:
            self.tables.stale = True  # write_ptbase
        else:
            self.tables.get_type(mfn, L4)
            if vcpu.ldt_frames:
                drop_ldt(vcpu)
            self.tables.becomes_kernels(mfn)
            vcpu.cr3_kernel = mfn
            more = old != 0 and self.tables.drop(old)
            if vcpu.kernel_mode:
                self.core.cr3 = mfn << 12
                self.tables.stale = False
            if more:
                raise Restart

    def new_user_baseptr(self, vcpu: Vcpu, mfn: int) -> None:
        if mfn == vcpu.cr3_user:
            return
        if mfn:
            self.tables.get_type(mfn, L4)
            self.tables.becomes_users(mfn)
        old, vcpu.cr3_user = vcpu.cr3_user, mfn
        if old and self.tables.drop(old):
            raise Restart

    def arm_breakpoints(self, vcpu: Vcpu) -> bool:
        self.core.set_breakpoints(vcpu.debug.addresses, vcpu.debug.dr7)
        crossing.allow(self)
        return True

    def write_hypercall_page(self, mfn: int) -> None:
        """hypercall_page_initialise."""
        self.tables.get_type(mfn, WRITABLE)
        self.tables.put_type(mfn)
        self.memory.frame(mfn)[:] = hypercall_page()
        self.core.forget_frame(mfn)

    # --- beginning and end -----------------------------------------------------------------------------------------------------

    def start(self, rip: int, rsp: int, rsi: int, cr3: int, kernel_sp: int, text: tuple[range, ...] = ()) -> None:
        """The first context of vCPU 0, its page tables pinned (arch_set_info_guest). `text`: PFNs of the kernel's read-only code."""
        vcpu, core = self.vcpus[0], self.core
        self.tables.pin(cr3 >> 12, L4)
        self.new_baseptr(vcpu, cr3 >> 12)
        is_text = np.zeros(self.memory.frames, dtype=np.bool_)
        for pfns in text:
            is_text[self.p2m[pfns.start : pfns.stop].astype(np.int64)] = True
        self.tables.defer_execution(is_text)
        for index in range(16):
            core.regs[index] = 0
        core.regs[4], core.regs[6] = rsp, rsi
        core.rip = rip
        vcpu.kernel_sp = kernel_sp
        self.tables.stale = False

    def close(self) -> None:
        """Give everything back. The domain must not be held."""
        self.ended = self.ended or "destroyed"
        with self._peer_lock:
            self._open = False
            requests = drain(self)
        part(self, requests)
        while self._questions:
            self._questions.popleft()[1].cancel()
        self.core.close()
        self.current = None  # type: ignore[assignment]
        for name in ("emulator", "frames", "layout", "p2m", "tables", "guest", "events", "vcpus", "reservation", "grants", "mappings",
                     "foreign_writes"):  # fmt: skip
            delattr(self, name)  # they lead back here: what they hold would wait for the garbage collector
        self.memory.close(self.remnants.frames)

    trap_name = staticmethod(trap_name)
