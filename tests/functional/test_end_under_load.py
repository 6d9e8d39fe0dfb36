"""A guest that dies while its devices work: its disk and its network let go, its nodes are gone, its neighbour notices nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from emulator.dom0.storage import open_image
from emulator.dom0.xenstore import wire
from tests.functional.block_guest import booted, disk_cfg, needs_disks
from tests.functional.linux_guest import ROOT, config_of, needs_linux
from tests.unit.xenstore_client import Client


@pytest.mark.linux
@needs_linux
@needs_disks
def test_a_guest_that_crashes_in_mid_request_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(32 << 20))
    cfg = disk_cfg(tmp_path, f"{disk},raw,xvda")
    cfg.write_text(cfg.read_text() + 'on_crash = "destroy"\nvif = [ "" ]\n')
    with booted(cfg) as shell:
        tools, store, domid = shell.tools, shell.tools.store, shell.guest.domid
        neighbour = tools.guests[tools.create(config_of(ROOT / "guests" / "shell.cfg"), False, lambda text: None)]
        tool = Client(store.connect(0))
        tool.ask(wire.XS_WATCH, "@releaseDomain", "end")
        tool.heard()
        tools.rename(domid, "loaded")
        assert shell.ask("cat /sys/hypervisor/type") == "xen" and store.read(f"/local/domain/{domid}/name") == "loaded"
        device = shell.guest.disks.devices[51712]
        shell.ask("for n in 1 2 3 4; do while :; do dd if=/dev/zero of=/dev/xvda bs=64k seek=$((n*64)) count=64 2>/dev/null; done & done")
        written = device.counters.written_bytes
        shell.until(lambda: device.counters.written_bytes > written + (4 << 20))
        shell.guest.type(b"echo c > /proc/sysrq-trigger\r")
        shell.until(lambda: domid not in tools.guests and shell.guest.domain.memory.closed)

        assert device.closed.is_set() and not shell.guest.disks.devices and not shell.guest.vifs.devices
        open_image(disk, "raw", readonly=False).close()  # nobody holds it
        for path in (f"/local/domain/{domid}", f"/libxl/{domid}", f"/local/domain/0/backend/vbd/{domid}", f"/local/domain/0/backend/vif/{domid}"):
            assert store.read(path) is None, path
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("vbd-")]
        assert not [one for one in store.connections.values() if one.domid == domid]
        assert 1 <= len(tool.heard()) <= 2, "its crash, and its end"

        start = neighbour.transcript.end
        neighbour.type(b"echo still-here\n")
        shell.until(lambda: b"still-here" in neighbour.transcript.tail(neighbour.transcript.end - start).partition(b"\n")[2])
