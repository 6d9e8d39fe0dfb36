"""Debian's Linux on our disks: file systems that the host finds whole, plugging under load, going back in time, kill -9."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.dom0 import blockverbs
from emulator.dom0.storage import open_image
from emulator.errors import UserError
from tests.functional.block_guest import booted, check_ext4, disk_cfg, exported, found, make_ext4, needs_disks
from tests.functional.linux_guest import BUSYBOX, ROOT, needs_linux

pytestmark = [pytest.mark.linux, pytest.mark.slow, needs_linux, needs_disks]
MIB = 1 << 20


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_a_file_system_is_filled_checked_by_the_host_and_read_back_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    gift = os.urandom(3 * MIB + 17)
    (tmp_path / "content" / "gift").write_bytes(gift)
    disk = tmp_path / "disk.img"
    make_ext4(disk, 64, tmp_path / "content")
    cfg = disk_cfg(tmp_path, f"format=raw,vdev=xvda,access=rw,target={disk}", f"{BUSYBOX},raw,xvdb,r")
    with booted(cfg) as shell:
        assert shell.ask("cat /sys/block/xvda/size /sys/block/xvda/ro /sys/block/xvdb/ro").split() == ["131072", "0", "1"]
        assert shell.ask("mount -t ext4 /dev/xvda /mnt; md5sum < /mnt/gift").split()[0] == md5(gift)
        shell.ask("mkdir /mnt/d; for i in 1 2 3 4 5 6 7 8; do cp /bin/busybox /mnt/d/$i; done; rm /mnt/d/3")
        shell.ask("dd if=/dev/urandom of=/mnt/d/noise bs=64k count=40 2>/dev/null; sync")
        sums = shell.ask("md5sum /mnt/d/*")
        assert sums.split().count(md5(BUSYBOX.read_bytes())) == 7
        sectors = BUSYBOX.stat().st_size // 512
        assert shell.ask(f"dd if=/dev/xvdb bs=512 count={sectors} 2>/dev/null | md5sum").split()[0] == md5(BUSYBOX.read_bytes()[: sectors * 512])
        assert "not permitted" in shell.ask("dd if=/dev/zero of=/dev/xvdb count=1")
        assert shell.ask("umount /mnt && echo unmounted") == "unmounted"
        (first, _second) = blockverbs.reports(shell.guest)
        assert first.requests > 50 and first.errors == 0 and first.backend_state == first.frontend_state == "connected"
        shell.end()
    check_ext4(disk)
    with booted(cfg) as shell:
        assert shell.ask("mount -t ext4 -o ro /dev/xvda /mnt; md5sum /mnt/d/*") == sums
        assert shell.ask("md5sum < /mnt/gift").split()[0] == md5(gift)


def test_disks_come_and_go_under_load_and_a_guest_goes_back_in_time_with_its_disk(tmp_path: Path) -> None:
    base, mine, extra = tmp_path / "base.img", tmp_path / "mine.overlay", tmp_path / "extra.img"
    make_ext4(base, 48)
    make_ext4(extra, 16)
    before, busybox = md5(base.read_bytes()), md5(BUSYBOX.read_bytes())
    with booted(disk_cfg(tmp_path, f"format=overlay,vdev=xvda,base={base},target={mine}")) as shell:
        shell.ask("mount -t ext4 /dev/xvda /mnt")
        shell.ask("while :; do cp /bin/busybox /mnt/load; sync; rm /mnt/load; done &")
        for _ in range(3):
            blockverbs.attach(shell.guest, f"{extra},raw,xvdb")
            shell.until(lambda: "xvdb" in shell.ask("ls /dev"))
            shell.ask("mkdir -p /x; mount -t ext4 /dev/xvdb /x && cp /bin/busybox /x/b")
            assert shell.ask("md5sum < /x/b").split()[0] == busybox
            with pytest.raises(UserError, match="is there already"):
                blockverbs.attach(shell.guest, f"{base},raw,xvdb,ro")
            shell.ask("umount /x")
            assert blockverbs.detach(shell.guest, "xvdb") == "xvdb"
            check_ext4(extra)
            shell.until(lambda: "xvdb" not in shell.ask("ls /dev"))  # blkfront lets go first and takes the node away then
        assert "quiet" in shell.ask("kill %1; wait; echo quiet")

        shell.ask("rm -f /mnt/load; cat /bin/busybox /init > /mnt/then; sync; cat /init /bin/busybox > /mnt/unsynced")
        sums = shell.ask("md5sum /mnt/then /mnt/unsynced")
        shell.tools.snapshot(shell.guest.domid, "then")
        shell.ask("rm /mnt/then; for i in 1 2 3 4 5; do cp /bin/busybox /mnt/later$i; done; sync; echo 3 > /proc/sys/vm/drop_caches")
        shell.tools.restore(shell.guest.domid, "then")
        shell.ask("true")
        shell.ask("echo 3 > /proc/sys/vm/drop_caches")
        assert shell.ask("md5sum /mnt/then /mnt/unsynced; ls /mnt | grep -c later").splitlines() == [*sums.splitlines(), "0"]
        assert shell.ask("sync; umount /mnt && echo unmounted") == "unmounted"
        shell.end()
    check_ext4(exported(mine, "overlay", tmp_path / "mine.img"))
    assert md5(base.read_bytes()) == before


def test_two_vcpus_use_two_queues_with_persistent_grants(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(os.urandom(8 * MIB))
    cfg = disk_cfg(tmp_path, f"format=raw,vdev=xvda,access=rw,persistent,target={disk}")
    cfg.write_text(cfg.read_text() + "vcpus = 2\n")
    with booted(cfg) as shell:
        assert shell.ask("ls /sys/block/xvda/mq").split() == ["0", "1"]
        halves = [f"taskset {1 << cpu} dd if=/dev/xvda bs=64k skip={64 * cpu} count=64 iflag=direct 2>/dev/null | md5sum" for cpu in (0, 1)]
        contents = disk.read_bytes()
        said = shell.ask(f"{halves[0]} > /0 & {halves[1]} > /1; wait; cat /0 /1").split()
        assert [word for word in said if len(word) == 32] == [md5(contents[: 4 * MIB]), md5(contents[4 * MIB :])]
        (device,) = shell.guest.disks.devices.values()
        assert len(device.queues) == 2 and all(queue.ring.req_cons >= 60 for queue in device.queues)
        assert all(queue.persistent is not None and queue.persistent.kept for queue in device.queues)
        shell.ask("dd if=/dev/urandom of=/dev/xvda bs=128k count=16 conv=notrunc 2>/dev/null; taskset 2 sync")
        read_back = shell.ask("echo 3 > /proc/sys/vm/drop_caches; md5sum < /dev/xvda").split()[0]
        assert read_back == md5(disk.read_bytes()) != md5(contents)
        shell.end()


def test_a_guest_destroyed_in_the_middle_of_its_requests_leaves_a_whole_disk_free(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(16 * MIB))
    with booted(disk_cfg(tmp_path, f"format=raw,vdev=xvda,access=rw,target={disk}")) as shell:
        shell.guest.type(b"while :; do dd if=/dev/urandom of=/dev/xvda bs=256k oflag=direct conv=notrunc 2>/dev/null; done\r")
        (device,) = shell.guest.disks.devices.values()
        shell.until(lambda: device.counters.written_bytes > MIB)
        shell.tools.destroy(shell.guest.domid)
        assert device.closed.is_set()
        image = open_image(disk, "raw", readonly=False)  # the lock is free
        image.close()
    assert disk.stat().st_size == 16 * MIB


ENGINE = """
import sys, time
from pathlib import Path
from tests.functional.block_guest import booted
with booted(Path(sys.argv[1])) as shell:
    shell.ask("mount -t ext4 /dev/xvda /mnt; cp /bin/busybox /mnt/kept; sync")
    shell.guest.type(b"while :; do cp /bin/busybox /mnt/load; sync; rm /mnt/load; done\\r")
    (device,) = shell.guest.disks.devices.values()
    written = device.counters.written_bytes
    shell.until(lambda: device.counters.written_bytes > written)
    print("synced", flush=True)
    time.sleep(600)
"""


def test_what_a_guest_synced_survives_a_kill_of_the_engine(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.img", tmp_path / "mine.overlay"
    make_ext4(base, 48)
    cfg = disk_cfg(tmp_path, f"format=overlay,vdev=xvda,base={base},target={mine}")
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(cfg)], cwd=ROOT, stdout=subprocess.PIPE)
    assert engine.stdout is not None
    assert engine.stdout.readline() == b"synced\n"
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    engine.stdout.close()
    image = exported(mine, "overlay", tmp_path / "mine.img")
    replayed = subprocess.run([found("fsck.ext4") or "", "-p", str(image)], capture_output=True, text=True)  # the journal alone
    assert replayed.returncode in (0, 1), replayed.stdout
    check_ext4(image)
    subprocess.run([found("debugfs") or "", "-R", f"dump /kept {tmp_path / 'kept'}", str(image)], check=True, capture_output=True)
    assert md5((tmp_path / "kept").read_bytes()) == md5(BUSYBOX.read_bytes())
