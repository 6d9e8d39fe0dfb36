"""Frozen views: everything a console may see of the engine, as plain values.

A view is taken by the engine at one moment and never changes afterwards. Views hold numbers, strings, bytes and
other views only, so that they cross the control socket as they are (msgspec, MessagePack). No view refers to a live object.

Growth is by new fields with defaults: an older console ignores what it does not know, an older engine leaves the defaults.
Times are nanoseconds unless the name says otherwise; memory is counted in 4 KiB frames unless the name says KiB.
"""

from __future__ import annotations

from msgspec import field

from emulator.control.handshakeviews import HandshakeView
from emulator.control.memoryviews import MemoryView
from emulator.control.schedulingviews import RunQueueView
from emulator.control.view import View as View

VIEW_VERSION = 1
"""Raised when a field changes its meaning; the hello of the protocol compares it."""


class CpuView(View, frozen=True):
    """One physical CPU: a worker thread of the engine."""

    cpu: int
    busy_ns: int = 0  # time spent inside domains since the engine's start
    running: int = -1  # domain ID now on it, -1 when idle


class PoolView(View, frozen=True):
    """A pool of CPUs (xl cpupool-list). Domain-0 counts in Pool-0."""

    poolid: int
    name: str = ""
    scheduler: str = ""
    cpus: tuple[int, ...] = ()
    domains: int = 0


class HostView(View, frozen=True):
    """The machine that Domain-0 runs on."""

    name: str = ""
    version: str = ""  # xenconsole's own version
    xen_version: str = "4.17"
    started_unix: float = 0.0
    uptime_ns: int = 0
    total_kib: int = 0  # the memory pool: free + owned by domains + reserved by the hypervisor
    free_kib: int = 0
    cpus: tuple[CpuView, ...] = ()
    engine_pid: int = 0
    engine_cpu_ns: int = 0  # CPU time of the engine's process
    engine_rss_kib: int = 0
    scheduler: str = ""
    pools: tuple[PoolView, ...] = ()
    xenstored: str = ""  # path of the store's Unix socket: what XENSTORED_PATH is to be for xenstore-ls and its like; "" when there is none


class VcpuSummary(View, frozen=True):
    """What the table and the vCPU list need of one vCPU."""

    vcpu: int
    state: str = "b"  # r running, b blocked, - waiting, p paused, d down (xl vcpu-list's letters), s c its domain shut down or crashed
    cpu: int = -1  # physical CPU it runs on or ran on last
    cpu_ns: int = 0  # time spent in the guest
    xen_ns: int = 0  # time spent in the hypervisor for it
    credit: int = 0  # the scheduler's measure for its domain (credit2: ns of credit left)
    priority: str = ""  # in the scheduler's words: BOOST UNDER OVER parked, empty when it knows none
    weight: int = 0
    cap: int = 0  # percent of one CPU, 0 for none
    steal_ns: int = 0  # runnable without a CPU, as the guest is told


class RingTraffic(View, frozen=True):
    """Bytes moved through a domain's rings since its start."""

    console_in: int = 0
    console_out: int = 0
    net_rx: int = 0
    net_tx: int = 0
    block_read: int = 0
    block_write: int = 0


class DomainView(View, frozen=True):
    """One row of the domain table."""

    domid: int
    name: str = ""
    uuid: str = ""
    state: str = ""  # xl's six letters: r b p s c d, '-' where not set
    shutdown: str = ""  # poweroff, reboot, suspend, crash, watchdog; empty while it lives
    started_unix: float = 0.0
    cpu_ns: int = 0
    mem_kib: int = 0
    maxmem_kib: int = 0
    vcpus: tuple[VcpuSummary, ...] = ()
    hypercalls: int = 0  # since its start
    events: int = 0  # events sent to it since its start
    faults: int = 0  # page faults seen by the hypervisor
    traffic: RingTraffic = RingTraffic()
    console_end: int = 0  # bytes of console output since its start: grows while a guest speaks
    console_bell: int = 0  # BEL characters among them
    crash: str = ""  # one line when it crashed
    config_file: str = ""
    snapshots: int = 0
    pool: str = ""  # of CPUs
    affinity: str = "all"  # hard: the CPUs it may run on, as xl vcpu-list has it
    soft_affinity: str = "all"


class LogLine(View, frozen=True):
    """One line of the host's dmesg or of its event log."""

    seq: int
    time_unix: float
    domid: int  # -1: the host itself
    level: str  # debug info warning error
    text: str  # printable text only: control characters of a guest are escaped
    name: str = ""  # of the domain, as it was called then


class Overview(View, frozen=True):
    """What the overview screen pulls at every tick."""

    host: HostView
    domains: tuple[DomainView, ...] = ()
    log: tuple[LogLine, ...] = ()  # lines newer than the log sequence number in the request
    log_seq: int = 0


class Insn(View, frozen=True):
    """One disassembled instruction."""

    address: int
    data: bytes
    text: str


class VcpuView(View, frozen=True):
    """One vCPU as its worker left it between two slices."""

    vcpu: int
    state: str = "b"
    cpu: int = -1
    mode: str = "kernel"  # kernel or user: which of the guest's two modes it is in
    registers: dict[str, int] = field(default_factory=dict)
    """rax … r15, rip, rflags, cs, ss, ds, es, fs, gs, fs_base, gs_base, gs_base_user, cr0, cr2, cr3, cr4"""
    upcall_pending: bool = False
    upcall_mask: bool = True
    last_trap: str = ""  # "#PF error 0x7 at 0x…"
    last_hypercall: str = ""  # "mmu_update(…) = 0"
    guest_ns: int = 0
    hypervisor_ns: int = 0
    idle_ns: int = 0
    timer_ns: int = 0  # deadline of the singleshot timer in the guest's system time, 0 when none
    disassembly: tuple[Insn, ...] = ()  # at RIP
    stack: bytes = b""  # from RSP upwards, what could be read


class RingView(View, frozen=True):
    """One ring between a frontend and a backend. Indices are free-running, as the ABI has them.

    A console ring is two byte rings and gives two views (kind "console-in", "console-out") in which req_prod is the producer
    and req_cons the consumer."""

    name: str
    kind: str  # console-in console-out xenstore-req xenstore-rsp block net-tx net-rx
    size: int = 0  # slots (bytes of a byte ring)
    req_prod: int = 0
    req_cons: int = 0
    rsp_prod: int = 0
    rsp_cons: int = 0
    recent: bytes = b""  # the last bytes of a byte ring, oldest first
    slots: tuple[str, ...] = ()  # decoded slots of a request ring
    stalled: bool = False  # work waits and nobody has moved an index for a second
    gfn: int = 0
    port: int = 0
    device: str = ""  # whose ring it is: "xvda", "vif3.0"; those of one device and `queue` belong together
    queue: int = 0
    age_ns: int = 0  # of the oldest request in flight, or for how long frames have waited; 0 when nothing does


class FlowView(View, frozen=True):
    """What a device has moved since it was connected first: to compare with an earlier look."""

    device: str
    kind: str  # block net
    done: int = 0  # requests, or frames both ways
    inward: int = 0  # bytes to the guest
    outward: int = 0  # bytes from it
    waited: int = 0  # how many of `done` the wait was measured of
    wait_ns: int = 0  # their latency in all: from a request's taking to its answer, from the bridge to the guest's ring


class PortView(View, frozen=True):
    """One event channel of a domain."""

    port: int
    kind: str  # free reserved unbound interdomain pirq virq ipi
    bound: str = ""  # "VIRQ_TIMER", "domain 0 port 3 (console)", …
    vcpu: int = 0
    pending: bool = False
    masked: bool = False
    count: int = 0  # events sent through it
    peer: int = -1  # the domain at its far end, or the one it awaits; -1 where there is none


class LinkView(View, frozen=True):
    """What one domain shares with another, seen from the first: event channels, grants given, frames mapped."""

    domid: int
    peer: int
    ports: int = 0  # interdomain channels that end at the peer
    awaiting: int = 0  # unbound ones that the peer may bind
    pending: int = 0  # channels with an event that was not taken yet
    events: int = 0  # sent through them, both ways, since they were made
    given: int = 0  # entries of its grant table that name the peer
    used: int = 0  # of these, in use by the peer now
    mapped: int = 0  # the peer's frames that it has mapped


class TraceLine(View, frozen=True):
    """One hypercall or trap of the live trace."""

    seq: int
    vtime_ns: int
    vcpu: int
    kind: str  # hypercall trap event message
    name: str
    detail: str  # decoded arguments
    result: str  # 0, -EINVAL, …
    reason: str = ""  # why it was refused
    cost_ns: int = 0  # host time the hypervisor spent on it


class TraceView(View, frozen=True):
    lines: tuple[TraceLine, ...] = ()
    seq: int = 0  # of the newest line: pass it back to get only newer ones
    histogram: dict[str, tuple[int, ...]] = field(default_factory=dict)  # name -> counts by power of two of cost_ns: bucket i from 2**i on
    totals: dict[str, int] = field(default_factory=dict)  # name -> calls since the domain's start


class RefusalView(View, frozen=True):
    """Something the hypervisor refused, and why."""

    time_ns: int  # the domain's own time
    what: str  # "mmu_update", "grant_table_op copy", "page table write"
    errno: str  # "EINVAL"
    reason: str  # names the check and the offending value


class GrantView(View, frozen=True):
    """One entry of a domain's grant table that grants something."""

    ref: int
    domid: int  # to whom
    kind: str  # "access" "read-only" "part of a page" "transfer" "transitive"
    pfn: int = -1  # the frame as the domain counts, -1 when it has none of that number
    users: str = ""  # "domain 0: 2 writing", empty while nobody uses it


class GrantMappingView(View, frozen=True):
    """A frame of another domain (or its own) that the domain has mapped by a grant."""

    handle: int
    domid: int  # whose
    ref: int
    mfn: int  # as the mapper's page tables name it
    kind: str = ""  # "host", "device", "host, read-only"


class GrantsView(View, frozen=True):
    """Grants in and out."""

    version: int = 1
    frames: int = 0  # of the table
    limit: int = 0
    given: tuple[GrantView, ...] = ()
    mapped: tuple[GrantMappingView, ...] = ()


class CrashView(View, frozen=True):
    """What is kept of a guest that crashed."""

    reason: str
    vcpu: VcpuView
    console_tail: bytes = b""
    time_unix: float = 0.0


class DomainDetail(View, frozen=True):
    """Everything about one domain; each part is filled only when asked for (`parts` of the request)."""

    domain: DomainView
    vcpus: tuple[VcpuView, ...] = ()
    memory: MemoryView | None = None
    rings: tuple[RingView, ...] = ()
    flows: tuple[FlowView, ...] = ()  # come with the rings
    ports: tuple[PortView, ...] = ()
    trace: TraceView | None = None
    config: dict[str, str] = field(default_factory=dict)
    xenstore: tuple[tuple[str, str], ...] = ()  # (path, value) of the domain's own subtree
    crash: CrashView | None = None
    runqueue: RunQueueView | None = None  # of Domain-0 only, as the next
    links: tuple[LinkView, ...] = ()
    refusals: tuple[RefusalView, ...] = ()  # the latest, oldest first
    grants: GrantsView | None = None
    handshakes: tuple[HandshakeView, ...] = ()


PARTS: tuple[str, ...] = ("vcpus", "memory", "rings", "ports", "trace", "config", "xenstore", "crash", "runqueue", "links", "refusals",
                          "grants", "handshakes")  # fmt: skip
"""Names accepted in the `parts` of a detail request."""


class SnapshotView(View, frozen=True):
    domid: int
    name: str
    taken_unix: float
    vtime_ns: int
    pages: int = 0  # frames it holds of its own
    screen: str = ""  # last lines of the console, printable
    automatic: bool = False  # taken by a restore of another one


class ConsoleChunk(View, frozen=True):
    """Console output of a domain: `data` begins at byte `offset` of all it ever said."""

    domid: int
    offset: int
    data: bytes
    end: int  # bytes said so far
    serial: tuple[tuple[int, int], ...] = ()  # parts (from, to offset) that came by console_io, where a line ends with LF alone
