"""A fake engine for the console's tests: the client's API over a few lively domains, with a clock of its own.

Time moves only when an overview is pulled (`step_ns` each) or by `advance()`, so every picture is the same on every run.
Domains 1–5: hello and counter as the demo has them, shell whose console echoes and answers, debian with two vCPUs, rogue
which has crashed and is kept. `say()` makes a guest speak, `lose()` kills the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from emulator.control.messages import CommandResult, ObituaryView
from emulator.control.views import (
    ConsoleChunk,
    CpuView,
    DomainDetail,
    DomainView,
    HostView,
    LogLine,
    Overview,
    RingTraffic,
    SnapshotView,
    VcpuSummary,
)
from emulator.errors import UserError
from tests.ui.fake_detail import fake_detail
from tests.ui.fake_storage import FakeStorage

START_UNIX = 1_700_000_000.0
KEPT = 1 << 20


class FakeDomain:
    """One domain's story: load in percent, rates per second, console transcript."""

    def __init__(
        self,
        domid: int,
        name: str,
        *,
        mem_mib: int = 8,
        vcpus: int = 1,
        load: float = 1.0,
        hypercalls: int = 40,
        events: int = 20,
        state: str = "-b----",
        born_ns: int = 0,
    ) -> None:
        self.domid, self.name, self.mem_kib, self.vcpus = domid, name, mem_mib * 1024, vcpus
        self.load, self.hypercalls, self.events, self.state, self.born_ns = load, hypercalls, events, state, born_ns
        self.crash = ""
        self.shutdown = ""
        self.transcript = bytearray()
        self.typed = 0
        self.cpu_ns = [0] * vcpus
        self.counts = [0.0, 0.0, 0.0]
        self.snapshots: list[SnapshotView] = []
        self.paused = False

    def advance(self, ns: int, now_ns: int) -> None:
        if self.paused or self.state[3:] != "---":
            return
        seconds = ns / 1e9
        wave = 1.0 + 0.4 * ((now_ns // 1_000_000_000 * (self.domid * 7 + 3)) % 11 - 5) / 5 if self.load < 95 else 1.0
        for vcpu in range(self.vcpus):
            self.cpu_ns[vcpu] += int(ns * min(self.load * wave / (vcpu + 1), 100.0) / 100)
        self.counts[0] += self.hypercalls * seconds * wave
        self.counts[1] += self.events * seconds * wave
        self.counts[2] += self.load * 3 * seconds

    def view(self, now_ns: int, cpus: int) -> DomainView:
        state = "--p---" if self.paused else self.state
        letter = "r" if state[0] == "r" else "p" if state[2] == "p" else "b" if state[3:] == "---" else "d"
        summaries = tuple(
            VcpuSummary(vcpu=i, state=letter, cpu=(self.domid + i) % cpus, cpu_ns=ns, xen_ns=ns // 9) for i, ns in enumerate(self.cpu_ns)
        )
        return DomainView(
            domid=self.domid,
            name=self.name,
            uuid=f"00000000-0000-4000-8000-{self.domid:012d}",
            state=state,
            shutdown=self.shutdown,
            started_unix=START_UNIX + self.born_ns / 1e9,
            cpu_ns=sum(self.cpu_ns),
            mem_kib=self.mem_kib,
            maxmem_kib=self.mem_kib,
            vcpus=summaries,
            hypercalls=int(self.counts[0]),
            events=int(self.counts[1]),
            faults=int(self.counts[2]),
            traffic=RingTraffic(console_in=self.typed, console_out=len(self.transcript)),
            console_end=len(self.transcript),
            console_bell=self.transcript.count(7),
            crash=self.crash,
            config_file=f"{self.name}.cfg" if self.domid else "",
            snapshots=len(self.snapshots),
        )


def demo() -> list[FakeDomain]:
    """The domains of a fresh fake engine."""
    zero = FakeDomain(0, "Domain-0", mem_mib=256, vcpus=2, load=4.0, hypercalls=0, events=60, state="r-----")
    hello = FakeDomain(1, "hello", load=0.4, hypercalls=9, events=4)
    counter = FakeDomain(2, "counter", load=98.0, hypercalls=12, events=10, state="r-----")
    monitor = FakeDomain(3, "shell", load=1.2, hypercalls=60, events=31)
    debian = FakeDomain(4, "debian", mem_mib=256, vcpus=2, load=37.0, hypercalls=5200, events=730)
    rogue = FakeDomain(5, "rogue", load=0.0, hypercalls=0, events=0, state="----c-")
    rogue.crash, rogue.shutdown = "triple fault at 0xffffffff81001234: #PF error 0x2 while delivering #GP", "crash"
    hello.transcript += b"".join(b"hello from domain 1, greeting %d\r\n" % n for n in range(1, 6))
    counter.transcript += b"".join(b"counter: %d.%d M additions/s\r\n" % (180 + n % 7, n % 10) for n in range(40))
    monitor.transcript += b"xenconsole monitor, type help\r\n\x1b[32m>\x1b[0m "
    debian.transcript += b"[    0.000000] Linux version 6.1.0 (debian)\r\n[    1.204411] Run /init as init process\r\n~ # "
    rogue.transcript += b"rogue: wrmsr ... #GP\r\nrogue: lidt ... "
    return [zero, hello, counter, monitor, debian, rogue]


class FakeEngine:
    """EngineClient's API without an engine."""

    def __init__(self, domains: list[FakeDomain] | None = None, *, step_ns: int = 250_000_000, cpus: int = 2) -> None:
        self.lost = ""
        self.storage = FakeStorage()
        self.closed = False
        self.commands: list[tuple[str, dict[str, object]]] = []
        self.cpus = cpus
        self.step_ns = step_ns
        self.now_ns = 61_000_000_000
        self.domains = {d.domid: d for d in (demo() if domains is None else domains)}
        self.obituaries: dict[int, ObituaryView] = {}
        self.ended: dict[int, bytearray] = {}
        self._log: list[LogLine] = []
        self._callbacks: list[Callable[[str, int], None]] = []
        self._spoke = asyncio.Event()
        self._next = max(self.domains, default=0) + 1
        for domid in self.domains:
            self.log(domid, "info", "created" if domid else "Xen 4.17 on 2 CPUs")
        if 5 in self.domains:
            self.log(5, "error", self.domains[5].crash)

    # the test's side

    def log(self, domid: int, level: str, text: str, name: str = "") -> None:
        self._log.append(LogLine(len(self._log) + 1, START_UNIX + self.now_ns / 1e9, domid, level, text, name))
        self._tell("log", domid)

    def advance(self, ns: int) -> None:
        self.now_ns += ns
        for domain in self.domains.values():
            domain.advance(ns, self.now_ns)

    def say(self, domid: int, data: bytes) -> None:
        """The guest prints."""
        self.domains[domid].transcript += data
        self._wake()
        self._tell("console", domid)

    def lose(self, why: str = "the engine was killed by signal 9") -> None:
        self.lost = why
        self._wake()
        self._tell("lost", -1)

    def _wake(self) -> None:
        self._spoke.set()
        self._spoke = asyncio.Event()

    def _tell(self, kind: str, domid: int) -> None:
        for callback in list(self._callbacks):
            callback(kind, domid)

    def _alive(self) -> None:
        if self.lost:
            raise ConnectionError(self.lost)

    # the client's side

    async def overview(self, since_log: int = 0) -> Overview:
        self._alive()
        self.advance(self.step_ns)
        views = tuple(d.view(self.now_ns, self.cpus) for d in self.domains.values())
        busy = sum(v.cpu_ns for v in views)
        cpus = tuple(
            CpuView(
                cpu=i,
                busy_ns=min(int(busy / self.cpus * (1 + 0.2 * i)), self.now_ns),
                running=2 if i == 0 and 2 in self.domains else -1,
            )
            for i in range(self.cpus)
        )
        total = 2048 * 1024
        host = HostView(
            name="testhost",
            version="0.1",
            started_unix=START_UNIX,
            uptime_ns=self.now_ns,
            total_kib=total,
            free_kib=total - sum(v.mem_kib for v in views) - 16384,
            cpus=cpus,
            engine_pid=4242,
            engine_cpu_ns=int(busy * 1.1),
            engine_rss_kib=390_000,
            scheduler="credit",
        )
        log = tuple(line for line in self._log if line.seq > since_log)
        return Overview(host=host, domains=views, log=log, log_seq=len(self._log))

    def _domain(self, domid: int) -> FakeDomain:
        self._alive()
        if domid not in self.domains:
            raise UserError(f"domain {domid} does not exist")
        return self.domains[domid]

    async def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        domain = self._domain(domid)
        return fake_detail(domain.view(self.now_ns, self.cpus), bytes(domain.transcript), parts, since_trace, self.now_ns)

    async def snapshots(self, domid: int) -> tuple[SnapshotView, ...]:
        return tuple(self._domain(domid).snapshots)

    async def obituary(self, domid: int) -> ObituaryView | None:
        self._alive()
        return self.obituaries.get(domid)

    async def command(self, name: str, /, *, progress: Callable[[str], None] | None = None, **args: bool | int | str | bytes) -> CommandResult:
        if self.lost:
            return CommandResult(ok=False, error=self.lost)
        self.commands.append((name, dict(args)))
        if name == "create":
            domain = FakeDomain(
                self._next,
                str(args.get("name") or args.get("file", "guest")).rsplit("/", 1)[-1].removesuffix(".cfg"),
                born_ns=self.now_ns,
            )
            domain.paused = bool(args.get("paused", False))
            self.domains[self._next] = domain
            self._next += 1
            self.log(domain.domid, "info", f"{domain.name} created")
            return CommandResult(ok=True, message=f"{domain.name} is domain {domain.domid}", domid=domain.domid)
        if name == "quit":
            return CommandResult(ok=True)
        if "domid" not in args:
            return CommandResult(ok=False, error=f"{name} is not played here")
        domid = int(str(args["domid"]))
        found = self.domains.get(domid)
        if found is None:
            return CommandResult(ok=False, error=f"domain {domid} does not exist")
        if domid == 0:
            return CommandResult(ok=False, error=f"Domain-0 cannot be the target of {name}")
        return self._obey(found, name, args)

    def _obey(self, domain: FakeDomain, name: str, args: dict[str, str | int | bool | bytes]) -> CommandResult:
        snapshot: SnapshotView | None = None
        if name in ("pause", "unpause"):
            domain.paused = name == "pause"
        elif name in ("destroy", "shutdown"):
            reason = "poweroff" if name == "shutdown" else "destroyed"
            self.obituaries[domain.domid] = ObituaryView(domain=domain.view(self.now_ns, self.cpus), reason=reason)
            self.ended[domain.domid] = domain.transcript
            del self.domains[domain.domid]
            self._wake()
            self._tell("gone", domain.domid)
        elif name == "rename":
            domain.name = str(args["new"])
        elif name in ("snapshot", "restore"):
            auto = name == "restore"
            title = "before restore" if auto else str(args.get("name") or f"snapshot-{len(domain.snapshots) + 1}")
            if auto and str(args["name"]) not in {s.name for s in domain.snapshots}:
                return CommandResult(ok=False, error=f"{domain.name} has no snapshot named {args['name']!s}")
            tail = bytes(domain.transcript[-200:]).decode("utf-8", "replace")
            screen = "".join(c for c in tail if c.isprintable() or c == "\n")
            snapshot = SnapshotView(
                domid=domain.domid,
                name=title,
                taken_unix=START_UNIX + self.now_ns / 1e9,
                vtime_ns=self.now_ns,
                pages=1800 + 37 * len(domain.snapshots),
                screen=screen,
                automatic=auto,
            )
            domain.snapshots.append(snapshot)
        elif name == "forget":
            domain.snapshots = [s for s in domain.snapshots if s.name != args["name"]]
        elif name != "reboot":
            return CommandResult(ok=False, error=f"no command {name}")
        self.log(domain.domid, "info", name)
        self._tell("state", domain.domid)
        return CommandResult(ok=True, message=f"{domain.name}: {name}", domid=domain.domid, snapshot=snapshot)

    async def console_write(self, domid: int, data: bytes) -> None:
        """Echoes like a tty; Enter answers with a prompt."""
        self._domain(domid).typed += len(data)
        self.say(domid, data.replace(b"\r", b"\r\n\x1b[32m>\x1b[0m "))

    async def console_read(self, domid: int, offset: int, limit: int = 65536) -> ConsoleChunk:
        self._alive()
        transcript = self.ended[domid] if domid in self.ended else self._domain(domid).transcript
        offset = max(offset, len(transcript) - KEPT, 0)
        return ConsoleChunk(domid=domid, offset=offset, data=bytes(transcript[offset : offset + limit]), end=len(transcript))

    async def console_attach(self, domid: int, offset: int) -> AsyncIterator[ConsoleChunk]:
        while domid in self.domains and not self.lost:
            spoke = self._spoke
            chunk = await self.console_read(domid, offset)
            if chunk.data:
                offset = chunk.offset + len(chunk.data)
                yield chunk
            else:
                await spoke.wait()

    def on_event(self, callback: Callable[[str, int], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def close(self) -> None:
        self.closed = True
        self._wake()


def replaced(view: DomainView, **fields: object) -> DomainView:
    """A changed copy of a view, for tests that need one state exactly."""
    return msgspec.structs.replace(view, **fields)
