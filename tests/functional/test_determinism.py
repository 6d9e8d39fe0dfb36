"""The same guest, built again and given the log of what reached it, ends with the same registers and the same memory: to the last bit.

Left out of the comparison is what no guest sees: `retaddr` at the end of the processor's state (the address in the host's own code of
the last memory access; `Core.save` gives it as zero), the vector registers above their 128 bits (Unicorn's helpers copy whatever lay
on the host's stack there; instructions that would show it are #UD), and counters that are for people.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from emulator.abi.xen import VCPU_INFO_SIZE
from emulator.dom0.guest import Guest
from emulator.dom0.xenstore.recorded import Said
from emulator.hypervisor.mailbox import Logged, ToBackend
from emulator.hypervisor.replay import replay
from emulator.hypervisor.state import save_domain
from tests.functional.linux_guest import ROOT, build, config_of, memory_hash, needs_linux, type_line, write_cfg
from tests.patience import PATIENCE_SECONDS
from tests.unit.cores import Bare


@dataclass(frozen=True)
class End:
    """All of a domain that the guest could tell."""

    count: int
    registers: tuple[int, ...]
    processor: bytes
    memory: str
    said: bytes
    vcpus: str
    ports: str

    def differs(self, other: End) -> list[str]:
        return [name for name in self.__dataclass_fields__ if getattr(self, name) != getattr(other, name)]


@cache
def _vectors() -> int:
    """Where XMM0 lies in the processor's state; the others follow 64 bytes apart."""
    bare = Bare()
    try:
        bare.trap("b8efbeadde 660f6ec0 660f6ec8 31c0 0f0b")  # mov eax, 0xdeadbeef; movd xmm0, eax; movd xmm1, eax; xor eax, eax; ud2
        state = bare.core.save()
        first = state.index(bytes.fromhex("efbeadde"))
        assert state.index(bytes.fromhex("efbeadde"), first + 1) == first + 64
        return first
    finally:
        bare.close()


def visible(state: bytes) -> bytes:
    """The processor's state without what no guest can see."""
    seen = bytearray(state)
    for register in range(33):  # the last is a scratch register of the helpers
        at = _vectors() + 64 * register
        seen[at + 16 : at + 64] = bytes(48)
    return bytes(seen)


def end_of(guest: Guest) -> End:
    domain = guest.domain
    domain.core.rouse()
    state = save_domain(domain)
    ports = {number: (port.kind, port.vcpu, port.virq, port.remote_domain, port.remote_port) for number, port in domain.events.ports.items()}
    assert len(domain.memory.bytes) > VCPU_INFO_SIZE
    return End(domain.clock.count, (domain.core.rip, domain.core.rflags, *domain.core.regs), visible(domain.core.save()), memory_hash(domain),
               guest.transcript.tail(1 << 20), repr(state.vcpus), repr(ports))  # fmt: skip


Script = list[tuple[bytes, str]]  # when this was said, type that


def record(guest: Guest, script: Script, last: bytes, *, seed: int, noise: bool) -> tuple[list[Logged], End]:
    """Run through a script, sliced at random; with `noise` also stopped from another thread, its TLB and translations thrown away,
    its whole instance of Unicorn too."""
    domain, choice, done = guest.domain, random.Random(seed), threading.Event()
    log: list[Logged] = []
    domain.recording = log

    def disturb() -> None:
        while not done.is_set():
            domain.core.stop()
            time.sleep(random.random() * 0.002)

    thread = threading.Thread(target=disturb)
    if noise:
        thread.start()
    epoch, deadline = time.monotonic_ns(), time.monotonic() + PATIENCE_SECONDS
    waiting, start = list(script), 0
    try:
        while True:
            said = guest.transcript.tail(guest.transcript.end - start)
            if waiting and waiting[0][0] in said:
                start = guest.transcript.end
                type_line(guest, waiting.pop(0)[1])
            elif not waiting and last in said:
                break
            if domain.ended:
                assert not waiting, f"ended: {domain.ended} {domain.crash_reason}"
                break
            assert time.monotonic() < deadline, said[-500:]
            domain.slice(choice.choice((300, 20_000, 1_000_000, 10_000_000)), time.monotonic_ns() - epoch)
            if noise and choice.random() < 0.2:
                choice.choice((domain.core.flush_tlb, domain.core.flush_tlb, domain.core.flush_code))()
            if noise and choice.random() < 0.005:
                domain.core.rest()
            if domain.current.blocked:
                time.sleep(0.0005)
    finally:
        done.set()
        if noise:
            thread.join()
    return log, end_of(guest)


def check(cfg: Path, script: Script, last: bytes, monkeypatch: pytest.MonkeyPatch, *, noise: bool, seed: int) -> None:
    config = config_of(cfg)
    first = build(config, monkeypatch)
    try:
        log, wanted = record(first, script, last, seed=seed, noise=noise)
    finally:
        first.close()
    assert len(log) > len(script)
    second = build(config, monkeypatch)
    try:
        replay(second.domain, log, wanted.count)
        found = end_of(second)
    finally:
        second.close()
    assert not wanted.differs(found), f"replay differs in {wanted.differs(found)} (seed {seed})"


SHELL: Script = [(b"xen> ", "help\n"), (b"xen> ", "mem\ntime\n"), (b"xen> ", "spin 1\n"), (b"xen> ", "sleep 1\n"), (b"xen> ", "echo the end\n")]


@pytest.mark.parametrize("noise", [False, True], ids=["cut at random", "disturbed"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_shell_replays(monkeypatch: pytest.MonkeyPatch, noise: bool, seed: int) -> None:
    check(ROOT / "guests" / "shell.cfg", SHELL, b"\nthe end", monkeypatch, noise=noise, seed=seed)


def test_hello_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    check(ROOT / "guests" / "hello.cfg", [], b"2", monkeypatch, noise=True, seed=3)


def test_rogue_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    check(ROOT / "guests" / "rogue.cfg", [], b"no such words", monkeypatch, noise=True, seed=4)


def test_what_tools_write_among_its_nodes_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest watches control/shutdown and reads it at each event; a tool writes there at moments that no replay repeats."""
    config = config_of(ROOT / "guests" / "shell.cfg")
    first, choice = build(config, monkeypatch), random.Random(6)
    first.connection.on_output = lambda: first.domain.post(ToBackend("xenstore", b""))  # as the toolstack has it

    def write() -> None:
        while b"xen> " not in first.transcript.tail(1000):
            time.sleep(0.001)
        while sum(isinstance(entry.message, Said) for entry in first.domain.recording or ()) < 20 and not first.domain.ended:
            first._store.write("/local/domain/1/control/shutdown", f"word {'x' * choice.randrange(200)}")
            time.sleep(choice.random() * 0.01)
        first._store.write("/local/domain/1/control/shutdown", "poweroff")

    tool = threading.Thread(target=write)
    tool.start()
    try:
        log, wanted = record(first, [(b"xen> ", "spin 1\n")], b"no such words", seed=6, noise=True)
        tool.join()
    finally:
        first.close()
    assert first.domain.ended == "poweroff"
    second = build(config, monkeypatch)
    try:
        replay(second.domain, log, wanted.count)
        assert second.domain.ended == "poweroff", "what the tool wrote last"
        assert not wanted.differs(end_of(second))
    finally:
        second.close()


def test_a_crash_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    check(ROOT / "guests" / "shell.cfg", [(b"xen> ", "crash hard\n")], b"no such words", monkeypatch, noise=True, seed=5)


def test_two_builds_of_a_domain_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(ROOT / "guests" / "shell.cfg")
    ends = []
    for _ in range(2):
        guest = build(config, monkeypatch)
        ends.append(end_of(guest))
        guest.close()
    assert not ends[0].differs(ends[1])


LINUX: Script = [
    (b"/root# ", "uname -a; md5sum /bin/busybox\n"),
    (b"/root# ", "(sleep 0.3; echo later) & for i in 1 2 3; do echo $i; sleep 0.1; done; wait\n"),
    (b"/root# ", "cat /proc/interrupts /proc/uptime; seq 1 200 | sort -r | md5sum\n"),
    (b"/root# ", "echo the-$((1+1))nd-end\n"),
]


@pytest.mark.linux
@needs_linux
@pytest.mark.parametrize(("vcpus", "noise"), [
    pytest.param(1, False, id="cut at random"),
    pytest.param(1, True, id="disturbed"),
    pytest.param(2, True, id="two vCPUs, disturbed"),
])
def test_linux_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vcpus: int, noise: bool) -> None:
    check(write_cfg(tmp_path, extra=f"vcpus = {vcpus}\n"), LINUX, b"the-2nd-end", monkeypatch, noise=noise, seed=5 + vcpus + noise)
