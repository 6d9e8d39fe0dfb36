"""Images: raw files and overlays, what survives a kill, and the thread that waits for the disk."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.backends.block.ring import Job
from emulator.dom0.storage import DiskWorker, Done, OverlayImage, RawImage, clone, create_overlay, open_image
from emulator.dom0.storage.pagecache import PageCache
from emulator.dom0.storage.pool import base_chain
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS, until

SIZE = 64 * 4096 + 512


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def overlay(tmp_path: Path, base: Path) -> Iterator[OverlayImage]:
    clone(base, tmp_path / "o")
    image = OverlayImage(tmp_path / "o", readonly=False)
    yield image
    image.close()


def test_an_overlay_reads_as_its_base_until_written_and_leaves_it_alone(tmp_path: Path, base: Path, overlay: OverlayImage) -> None:
    before = base.read_bytes()
    assert overlay.read(0, SIZE) == before
    overlay.write(512, b"x" * 512)
    overlay.write(SIZE - 512, b"y" * 512)
    overlay.write(8192, b"z" * 12288)
    expected = before[:512] + b"x" * 512 + before[1024:8192] + b"z" * 12288 + before[20480:-512] + b"y" * 512
    assert overlay.read(0, SIZE) == expected
    assert overlay.usage().own == 5 * 4096
    overlay.close()
    again = OverlayImage(tmp_path / "o", readonly=True)
    assert again.read(0, SIZE) == expected and base.read_bytes() == before
    again.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "write from", "write from", "discard", "flush", "mark", "rewind", "reopen"]),
                          st.integers(0, SIZE // 512 - 1), st.integers(1, 40)), max_size=25))  # fmt: skip
def test_an_overlay_is_a_disk_whatever_is_done_to_it(tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int, int]]) -> None:
    folder = tmp_path_factory.mktemp("o")
    model = bytearray(random.Random(2).randbytes(SIZE))
    (folder / "base").write_bytes(model)
    image = open_image(folder / "o", "overlay", readonly=False, base=folder / "base")
    marks: list[tuple[object, bytes]] = []
    unknown: set[int] = set()  # sectors that were discarded
    for number, (action, sector, count) in enumerate(script):
        offset, size = sector * 512, min(count * 512, SIZE - sector * 512)
        if action.startswith("write"):
            data = bytes([number + 1]) * size
            views = [memoryview(data)[at : at + 1536] for at in range(0, size, 1536)]
            if action == "write" or not image.write_from(offset, size, views):
                image.write(offset, data)
            model[offset : offset + size] = data
            unknown -= set(range(sector, sector + size // 512))
        elif action == "discard":
            image.discard(offset, size)
            unknown |= set(range(sector, sector + size // 512))
            for gone in unknown:
                model[gone * 512 : gone * 512 + 512] = image.read(gone * 512, 512)
        elif action == "flush":
            image.flush()
        elif action == "mark":
            marks.append((image.mark(), bytes(model)))
        elif action == "rewind" and marks:
            mark, content = marks[sector % len(marks)]
            image.rewind(mark)
            model[:] = content
        elif action == "reopen":
            image.close()
            marks.clear()
            image = open_image(folder / "o", "overlay", readonly=False)
        assert image.read(0, SIZE) == model
        cached = image.read_cached(offset, size)
        assert cached is None or cached == model[offset : offset + size]
    image.close()


def test_an_overlay_takes_at_once_what_needs_no_reading(overlay: OverlayImage) -> None:
    page, part = [memoryview(b"p" * 4096)], [memoryview(b"q" * 512)]
    assert not overlay.write_from(512, 512, part)  # the rest of the cluster is the base's
    assert overlay.write_from(4096, 8192, page * 2) and overlay.write_from(4608, 512, part)
    assert overlay.read(4096, 8192) == b"p" * 512 + b"q" * 512 + b"p" * 7168
    overlay.mark()
    assert not overlay.write_from(4608, 512, part) and overlay.write_from(4096, 4096, page)
    assert overlay.read(4096, 4096) == b"p" * 4096


def test_a_host_that_is_busy_with_its_disk_holds_a_guest_up_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file system does not say that it would wait, and then it does: 100 ms each time."""
    now, writes, waits = 0, 0, 0
    real = os.pwritev

    def slow(descriptor: int, views: list[bytes], offset: int, flags: int = 0) -> int:
        nonlocal now, writes
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        writes += 1
        now += waits
        return real(descriptor, views, offset)

    monkeypatch.setattr(os, "pwritev", slow)
    with (tmp_path / "file").open("w+b") as file:
        cache = PageCache(file.fileno(), lambda: now)
        for _ in range(3):
            assert cache.write(0, 4096, [memoryview(bytes(4096))])
        assert writes == 3
        waits = 100_000_000
        for _ in range(20_000):  # two minutes
            cache.write(0, 4096, [memoryview(bytes(4096))])
            now += 5_000_000
        assert 12 <= writes - 3 <= 18
        waits, writes = 0, 0
        for _ in range(10_000):
            cache.write(0, 4096, [memoryview(bytes(4096))])
            now += 5_000_000
        assert writes > 7000 and cache.ready


def test_overlays_lie_over_overlays_and_larger_than_their_base(tmp_path: Path, base: Path, overlay: OverlayImage) -> None:
    overlay.write(0, b"a" * 4096)
    overlay.close()
    clone(tmp_path / "o", tmp_path / "p", "overlay")
    top = OverlayImage(tmp_path / "p", readonly=False)
    assert top.read(0, 8192) == b"a" * 4096 + base.read_bytes()[4096:8192]
    top.close()
    create_overlay(tmp_path / "q", base=base, base_size=SIZE, size=1 << 30)
    large = OverlayImage(tmp_path / "q", readonly=False)
    assert large.read(SIZE - 512, 1024) == base.read_bytes()[-512:] + bytes(512) and large.read((1 << 30) - 512, 512) == bytes(512)
    large.close()


def test_making_and_opening_a_large_overlay_takes_no_time_of_its_size(tmp_path: Path) -> None:
    began = time.thread_time()
    create_overlay(tmp_path / "large", size=1 << 40)
    image = OverlayImage(tmp_path / "large", readonly=False)
    assert time.thread_time() - began < 5, "one that goes by the size takes minutes"
    image.write((1 << 40) - 512, b"e" * 512)
    assert image.read((1 << 40) - 1024, 1024) == bytes(512) + b"e" * 512
    image.close()
    assert (tmp_path / "large").stat().st_blocks * 512 < 32 << 20


def test_discarded_space_is_used_again_after_a_flush(overlay: OverlayImage, tmp_path: Path) -> None:
    for _ in range(20):
        overlay.write(0, b"d" * 65536)
        overlay.discard(0, 65536)
        assert overlay.read(0, 65536) == bytes(65536)
        overlay.flush()
    assert (tmp_path / "o").stat().st_size <= 8192 + 3 * 65536


KILLED = """
import os, signal, sys
from emulator.dom0.storage import OverlayImage
image = OverlayImage(sys.argv[1], readonly=False)
image.write(0, b"1" * 20480)
image.discard(4096, 4096)
image.write(8704, b"2" * 512)
image.flush()
image.write(40960, b"3" * 4096)
print("flushed", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_flushed_survives_a_kill(tmp_path: Path, base: Path) -> None:
    clone(base, tmp_path / "o")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "o")], capture_output=True, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL and done.stdout == b"flushed\n"
    image = OverlayImage(tmp_path / "o", readonly=False)
    kept = image.read(0, 20480)
    assert kept == b"1" * 4096 + bytes(4096) + b"1" * 512 + b"2" * 512 + b"1" * 11264
    assert image.read(40960, 4096) in (b"3" * 4096, base.read_bytes()[40960:45056])
    image.close()


def test_no_moment_of_a_flush_leaves_a_map_that_names_missing_data(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what reaches the disk: data, then a barrier, then the map, then a barrier."""
    clone(base, tmp_path / "o")
    image = OverlayImage(tmp_path / "o", readonly=False)
    order: list[str] = []
    pwrite, sync = os.pwrite, os.fdatasync

    def noted_write(descriptor: int, data: bytes, at: int) -> int:
        order.append("map" if at < 8192 else "data")
        return pwrite(descriptor, data, at)

    def noted_sync(descriptor: int) -> None:
        order.append("sync")
        sync(descriptor)

    monkeypatch.setattr(os, "pwrite", noted_write)
    monkeypatch.setattr(os, "fdatasync", noted_sync)
    image.write(0, b"1" * 8192)
    image.flush()
    image.flush()
    assert order == ["data", "sync", "map", "sync", "sync"]
    image.close()


def test_mistakes_are_told(tmp_path: Path, base: Path, overlay: OverlayImage) -> None:
    def told(path: Path, fmt: str = "raw", readonly: bool = False, **more: Any) -> str:
        with pytest.raises(UserError) as bad:
            open_image(path, fmt, readonly=readonly, **more)
        return bad.value.line()

    assert "cannot be opened: No such file" in told(tmp_path / "none")
    assert "neither a file nor a block device" in told(tmp_path, readonly=True)
    (tmp_path / "empty").touch()
    assert "empty" in told(tmp_path / "empty")
    assert "not known" in told(base, "qcow2")
    assert "no overlay" in told(base, "overlay", readonly=True)
    assert "in use" in told(tmp_path / "o", "overlay")
    assert "a domain writes to it" in told(tmp_path / "o", "overlay", readonly=True)
    with pytest.raises(UserError, match="cannot be made: File exists"):
        clone(base, tmp_path / "o")
    overlay.close()
    assert "looks like an overlay" in told(tmp_path / "p", "overlay", base=str(tmp_path / "o"))
    damaged = bytearray((tmp_path / "o").read_bytes())
    for at, what in ((20, "damaged"), (8, "version"), (4096, "beyond its end")):
        wrong = bytearray(damaged)
        wrong[at : at + 4] = b"\x37\x13\x00\x00"
        (tmp_path / "w").write_bytes(wrong)
        assert what in told(tmp_path / "w", "overlay")
    twice = bytearray(damaged) + bytes(8192)
    twice[4096:4104] = b"\x02\0\0\0\x02\0\0\0"
    (tmp_path / "w").write_bytes(twice)
    assert "names data twice" in told(tmp_path / "w", "overlay")
    far = bytearray(damaged)
    far[24:32] = (1 << 63).to_bytes(8, "little")  # where the data begins: no file goes so far
    far[4092:4096] = zlib.crc32(far[:4092]).to_bytes(4, "little")
    (tmp_path / "w").write_bytes(far)
    assert "makes no sense" in told(tmp_path / "w", "overlay")
    os.utime(base, ns=(1, 1))
    assert "its base has changed" in told(tmp_path / "o", "overlay")


class Slow(RawImage):
    def __init__(self, path: Path) -> None:
        super().__init__(path, readonly=False)
        self.gate = threading.Event()

    def write(self, offset: int, data: bytes) -> None:
        self.gate.wait(PATIENCE_SECONDS)
        super().write(offset, data)


def test_nobody_waits_for_a_slow_disk_and_reads_do_not_overtake_writes(base: Path) -> None:
    image, answers = Slow(base), list[Done]()
    worker = DiskWorker(image, "disk", answers.extend)
    worker.submit([Job(1, 0, 0, 512)])
    worker.submit([Job(2, 1, 0, 512, b"n" * 512), Job(3, 0, 0, 512), Job(4, 3, 0, 0)])
    assert [done.tag for done in answers] in ([1], [])
    image.gate.set()
    worker.drain()
    assert sorted(done.tag for done in answers) == [1, 2, 3, 4] and not any(done.failure for done in answers)
    assert next(done.data for done in answers if done.tag == 3) == b"n" * 512
    worker.close()


def test_what_an_engine_of_the_same_number_left_when_it_was_killed_bars_no_new_overlay(tmp_path: Path, base: Path) -> None:
    (tmp_path / f"o.{os.getpid()}.new").touch()
    create_overlay(tmp_path / "o", base=base, base_size=SIZE)
    open_image(tmp_path / "o", "overlay", readonly=True).close()


def test_an_image_is_not_closed_under_the_disks_hands(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor would be another file's by the time the write is done."""
    monkeypatch.setattr("emulator.dom0.storage.worker._DRAIN_SECONDS", 0.05)
    image = Slow(base)
    worker = DiskWorker(image, "disk", lambda done: None)
    worker.submit([Job(1, 1, 0, 512, b"n" * 512)])
    with pytest.raises(OSError, match="does not answer"):
        worker.close()
    assert image.descriptor >= 0
    image.gate.set()
    until(lambda: image.descriptor < 0)
    assert base.read_bytes()[:512] == b"n" * 512


def test_a_failing_disk_is_an_answer(base: Path) -> None:
    image, answers = RawImage(base, readonly=False), list[Done]()
    worker = DiskWorker(image, "disk", answers.extend)
    os.close(image.descriptor)
    worker.submit([Job(1, 0, 0, 512), Job(2, 1, 0, 512, bytes(512)), Job(3, 3, 0, 0)])
    worker.drain()
    assert sorted(done.tag for done in answers) == [1, 2, 3]
    assert all("Bad file descriptor" in done.failure for done in answers)
    image.descriptor = -1
    worker.close()


def test_an_overlay_shows_no_file_of_the_hosts_that_lies_elsewhere_and_was_not_named(tmp_path: Path, base: Path) -> None:
    """It may be a stranger's, and name /etc/shadow."""
    (away := tmp_path / "downloads").mkdir()
    stranger = away / "o"
    create_overlay(stranger, base=base, base_size=SIZE)
    with pytest.raises(UserError) as refused:
        open_image(stranger, "overlay", readonly=True)
    assert "its base is elsewhere" in refused.value.line() and str(base) in refused.value.line() and "\n" not in refused.value.line()
    with pytest.raises(UserError, match="its base is elsewhere"):
        open_image(stranger, "overlay", readonly=True, base=tmp_path / "another")
    named = open_image(stranger, "overlay", readonly=False, base=base)
    assert named.read(0, 512) == base.read_bytes()[:512]
    assert named.look()().read(0, 512) == base.read_bytes()[:512], "looking at it is no other matter"
    named.close()
    (away / "beside").symlink_to(base)
    create_overlay(away / "by-link", base=away / "beside", base_size=SIZE)
    with pytest.raises(UserError, match="its base is elsewhere"):
        open_image(away / "by-link", "overlay", readonly=True)
    create_overlay(away / "deep", base=stranger, base_format="overlay", base_size=SIZE)
    with pytest.raises(UserError, match="its base is elsewhere"):
        open_image(away / "deep", "overlay", readonly=True)


def test_what_an_overlay_elsewhere_names_is_told_and_not_opened(tmp_path: Path, base: Path) -> None:
    (away := tmp_path / "downloads").mkdir()
    os.mkfifo(tmp_path / "fifo")
    create_overlay(away / "o", base=tmp_path / "fifo", base_format="overlay", base_size=SIZE)
    assert base_chain(away / "o", "overlay") == (tmp_path / "fifo",), "opening it would be an error"
