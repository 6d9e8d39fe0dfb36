"""Debian's Linux on several vCPUs: it boots to the shell, works in parallel, and runs the same again from its recording."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.dom0.builder import BootIds, load_kernel, load_ramdisk, plan_domain, write_domain
from emulator.dom0.config import parse_config
from emulator.dom0.guest import Guest, build_guest
from emulator.dom0.xenstore import Store
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.events import INTERDOMAIN, Port
from emulator.hypervisor.replay import replay
from emulator.hypervisor.spec import DomainSpec
from tests.functional.linux_guest import needs_linux, write_cfg
from tests.patience import PATIENCE_SECONDS

pytestmark = [pytest.mark.linux, pytest.mark.slow, needs_linux]


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cfg(tmp_path_factory.mktemp("smp"), memory=128)


def linux(cfg: Path, vcpus: int) -> Guest:
    return build_guest(parse_config(f"{cfg.read_text()}vcpus = {vcpus}\n", file=str(cfg)), 1, Store())


def said(guest: Guest) -> str:
    return guest.transcript.tail(20_000).decode("utf-8", "replace")


def run_until(guest: Guest, text: str) -> None:
    run_while(guest, lambda: text not in said(guest))


def run_while(guest: Guest, lacking: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while lacking():
        assert time.monotonic() < deadline, said(guest)[-2000:]
        assert not guest.domain.ended, (guest.domain.crash_reason, said(guest)[-2000:])
        wake = guest.turn(0, 5_000_000)
        if wake != 0:
            time.sleep(0.002)


def command(guest: Guest, line: str, answer: str) -> None:
    guest.type(line.encode() + b"\r")
    run_until(guest, answer)


@pytest.mark.parametrize("vcpus", [1, 2, 4, 8])
def test_linux_boots_and_works_on_all_its_vcpus(cfg: Path, vcpus: int) -> None:
    guest = linux(cfg, vcpus)
    try:
        run_until(guest, "# ")
        command(guest, "echo n$(nproc)n", f"n{vcpus}n")
        # A checksum on every vCPU at once, each bound to its own.
        command(guest, f"for i in $(seq 0 {vcpus - 1}); do taskset -c $i md5sum /bin/busybox & done; wait; echo fini''shed", "finished")
        sums = [line.split()[0] for line in said(guest).splitlines() if line.endswith("  /bin/busybox")]
        assert len(sums) == vcpus
        assert len(set(sums)) == 1
        if vcpus > 1:
            worked = [vcpu.accounting.guest_ns for vcpu in guest.domain.vcpus]
            assert min(worked) > 1_000_000
    finally:
        guest.close()


def test_a_vcpu_goes_and_comes_when_xenstore_says_so(cfg: Path) -> None:
    guest = linux(cfg, 2)
    try:
        run_until(guest, "# ")
        guest._store.write(f"/local/domain/{guest.domid}/cpu/1/availability", "offline")
        guest.kick_store()
        command(guest, "until [ $(nproc) = 1 ]; do sleep 0.1; done; echo n$(nproc)n", "n1n")
        run_while(guest, lambda: guest.domain.vcpus[1].up)  # the kernel counts it out before it has gone
        guest._store.write(f"/local/domain/{guest.domid}/cpu/1/availability", "online")
        guest.kick_store()
        # as udev would, which is told when the kernel has seen it
        command(guest, "until echo 1 > /sys/devices/system/cpu/cpu1/online; do sleep 0.1; done; echo n$(nproc)n", "n2n")
        assert guest.domain.vcpus[1].up
    finally:
        guest.close()


def fingerprint(domain: Domain) -> tuple[int, int, str, bytes]:
    memory = hashlib.sha256(domain.memory.octets.tobytes()).hexdigest()
    return domain.clock.count, domain.current.number, memory, bytes(domain.core.save())


def bare(cfg: Path, vcpus: int) -> Domain:
    """Linux without a backend that speaks: what it does follows from its clock alone."""
    frames = 96 * 256
    config = parse_config(cfg.read_text(), file=str(cfg))
    assert config.ramdisk is not None
    image = load_kernel(config.kernel.read_bytes(), source=str(config.kernel))
    ramdisk = load_ramdisk(config.ramdisk.read_bytes(), source=str(config.ramdisk))
    layout = plan_domain(image, nr_pages=frames, ramdisk=ramdisk, cmdline="console=hvc0 quiet")
    domain = Domain(DomainSpec(1, "replay", bytes(16), frames, frames, vcpus, wallclock_ns=1_700_000_000_000_000_000))
    ports = domain.events.allocate(Port(INTERDOMAIN)), domain.events.allocate(Port(INTERDOMAIN))
    state = write_domain(layout, image, ramdisk, domain.memory.octets, domain.p2m, BootIds(domain.layout.shared_info_mfn, *ports))
    domain.start(state.rip, state.rsp, state.rsi, state.cr3, state.kernel_sp, state.text)
    return domain


def test_a_recording_with_several_vcpus_replays_bit_for_bit(cfg: Path) -> None:
    """The first run is cut by the real clock into slices of odd lengths; the second knows only the log."""
    first = bare(cfg, 4)
    first.recording = []
    began = time.monotonic_ns()
    number = 0
    end = 0
    while not first.ended and (not end or first.clock.count < end):
        assert time.monotonic_ns() - began < PATIENCE_SECONDS * 1e9
        if not end and all(vcpu.up for vcpu in first.vcpus):
            end = first.clock.count + 1_000_000_000
        number += 1
        first.slice(1_000_000 + number * 77_777 % 9_000_000, time.monotonic_ns() - began)
        if first.blocked:
            time.sleep(0.001)
    assert sum(vcpu.up for vcpu in first.vcpus) == 4
    expected, log = fingerprint(first), first.recording
    first.close()
    second = bare(cfg, 4)
    replay(second, log, expected[0])
    assert fingerprint(second) == expected
    second.close()
