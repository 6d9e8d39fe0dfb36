"""A disk that was plugged in, read and pulled out again while a run was recorded comes and goes in the replay too, without the disk."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from emulator.dom0.backends.block.disks import AttachDisk, open_disk
from emulator.dom0.backends.net.vifs import AttachVif
from emulator.dom0.diskspec import parse_disk
from emulator.dom0.vifspec import parse_vif
from emulator.dom0.xenbus import Detach, Plug
from emulator.errors import UserError
from emulator.hypervisor.mailbox import ToBackend
from emulator.hypervisor.replay import replay
from tests.functional.block_guest import disk_cfg, needs_disks
from tests.functional.linux_guest import PROMPT, build, config_of, needs_linux, type_line
from tests.functional.test_determinism import end_of
from tests.patience import PATIENCE_SECONDS


@pytest.mark.linux
@needs_linux
@needs_disks
def test_hot_plugging_replays_to_the_last_bit_without_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, contents = tmp_path / "disk.img", bytes(range(256)) * 4096
    disk.write_bytes(contents)
    config = config_of(disk_cfg(tmp_path))
    guest = build(config, monkeypatch)
    domain = guest.domain
    guest.connection.on_output = lambda: domain.post(ToBackend("xenstore", b""))
    domain.recording = []
    epoch, deadline = time.monotonic_ns(), time.monotonic() + PATIENCE_SECONDS

    def until(wanted: bytes, start: int) -> None:
        while wanted not in guest.transcript.tail(guest.transcript.end - start):
            assert not domain.ended and time.monotonic() < deadline, guest.transcript.tail(1000)
            domain.slice(4_000_000, time.monotonic_ns() - epoch)

    def ask(line: str, wanted: bytes) -> None:
        start = guest.transcript.end
        type_line(guest, line)
        until(wanted, start)

    def order(receiver: str, what: object) -> object:
        plug = Plug(receiver, what)
        domain.post_peer(plug)
        domain.slice(20_000, time.monotonic_ns() - epoch)
        return plug.answer.result(0)

    until(PROMPT, 0)
    spec = parse_disk(f"{disk},raw,xvda,ro")
    order("disks", AttachDisk(spec, len(contents), open_disk(spec)))
    order("vifs", AttachVif(parse_vif("", domain="linux")))
    with pytest.raises(UserError, match="no disk xvdq"):
        order("disks", Detach("xvdq"))
    ask("until [ -b /dev/xvda ]; do sleep 0.05; done; md5sum < /dev/xvda\n", hashlib.md5(contents).hexdigest().encode())
    device = order("disks", Detach("xvda"))
    ask("while [ -b /dev/xvda ]; do sleep 0.05; done; echo it-is-$((1+1))-gone\n", b"it-is-2-gone")
    assert not guest.disks.devices and guest.vifs.devices and device in guest.disks.gone
    log, wanted = domain.recording, end_of(guest)
    orders = [entry.message for entry in log if isinstance(entry.message, Plug)]
    assert len(orders) == 4
    guest.close()
    disk.unlink()

    again = build(config, monkeypatch)
    replay(again.domain, log, wanted.count)
    assert end_of(again).differs(wanted) == []
    assert not again.disks.devices and again.vifs.devices and len(again.disks.gone) == 1
    again.close()


