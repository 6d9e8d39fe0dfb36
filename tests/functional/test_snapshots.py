"""Snapshots of a running Linux: put back exactly, over and over, while it works; ended guests come alive again; limits hold."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from emulator.dom0.guest import Guest
from emulator.dom0.snapshots import MAX_SNAPSHOTS
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError
from tests.functional.linux_guest import BUSYBOX, ROOT, config_of, frame_sums, memory_hash, needs_linux, write_cfg
from tests.patience import PATIENCE_SECONDS, until

T = TypeVar("T")
MD5 = hashlib.md5(BUSYBOX.read_bytes(), usedforsecurity=False).hexdigest().encode() if BUSYBOX.exists() else b""


class Live:
    """A guest that runs in a toolstack of its own."""

    def __init__(self, cfg: Path, *settings: str) -> None:
        self.tools = Toolstack(pool_kib=1 << 20, cpus=1)
        self.tools.start()
        config = config_of(cfg)
        self.domid = self.tools.create(config, False, lambda text: None)
        self.guest: Guest = self.tools.guest(self.domid)

    def ask(self, question: Callable[[], T]) -> T:
        return self.guest.domain.ask(question).result(PATIENCE_SECONDS)

    def until(self, wanted: bytes, *, start: int = 0) -> int:
        """Wait until it has said `wanted` since `start`; where its transcript ends then."""

        def said() -> bytes:
            return self.guest.transcript.tail(self.guest.transcript.end - start)

        until(lambda: wanted in said(), lambda: (self.guest.domain.ended, self.guest.domain.crash_reason, said()[-300:]))
        return self.guest.transcript.end

    def command(self, text: str, wanted: bytes) -> None:
        start = self.guest.transcript.end
        self.guest.type(text.encode() + b"\n")
        self.until(wanted, start=start)

    def alive(self, number: int) -> None:
        """It computes what only a live guest can: the answer is not in the question."""
        self.command(f"echo answer-$(({number} * 3))-", b"answer-%d-" % (number * 3))

    def close(self) -> None:
        self.tools.stop()


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    live = Live(write_cfg(tmp_path_factory.mktemp("linux"), memory=80))
    live.until(b"/root# ")
    # Work that goes on behind the shell: a checksum loop whose every wrong answer is kept, and a timer that ticks.
    right = MD5.decode()
    live.command(f"right={right}; : > /tmp/sums; : > /tmp/ticks", b"/root# ")
    live.command('while :; do s=$(md5sum /bin/busybox); [ "${s%% *}" = $right ] || echo $s >> /tmp/wrong; echo x >> /tmp/sums; done &', b"/root# ")
    live.command("while sleep 0.05; do echo x >> /tmp/ticks; done &", b"/root# ")
    yield live
    live.close()


@pytest.mark.linux
@needs_linux
def test_two_hundred_restores_of_a_working_linux(linux: Live) -> None:
    choice, album, domain = random.Random(1), linux.guest.album, linux.guest.domain
    sums: dict[str, np.ndarray] = {}

    def take() -> None:
        taken = album.take()
        sums[taken.name] = frame_sums(domain)

    def back(name: str) -> bool:
        present = frame_sums(domain)
        kept = album.restore(name)
        same = bool(np.array_equal(frame_sums(domain), sums[name]))
        if choice.random() < 0.3:
            sums[kept.name] = present
        else:
            album.forget(kept.name)
        return same

    linux.ask(take)
    number = 0
    for round_ in range(200):
        if len(sums) > 6:
            gone = choice.choice(sorted(sums)[1:])
            linux.ask(lambda: album.forget(gone))  # noqa: B023 - asked and answered within the round
            del sums[gone]
        if choice.random() < 0.3:
            linux.ask(take)
        name = choice.choice(sorted(sums))
        assert linux.ask(lambda: back(name)), f"restore {round_} of {name} brought other memory"  # noqa: B023
        if round_ % 10 == 0:
            number += 1
            linux.alive(number)
        else:
            time.sleep(choice.random() * 0.02)
    linux.command("md5sum /bin/busybox", MD5)
    linux.command("cat /tmp/wrong 2>&1", b"No such file")
    linux.command("dmesg | grep -ciE 'bug:|oops|call trace|lockup' ; echo e$((3+4))e", b"\n0\r\ne7e")


@pytest.mark.linux
@needs_linux
def test_an_old_snapshot_is_no_lockup(linux: Live) -> None:
    """The clock steps to the present: a minute here. The kernel is told, and its watchdogs say nothing."""
    guest = linux.guest

    def back() -> None:
        guest.album.restore("old")
        guest._epoch -= 60_000_000_000

    linux.ask(lambda: guest.album.take("old"))
    for number in range(3):
        linux.alive(number)
        linux.ask(back)
    linux.alive(4)
    linux.command("dmesg | grep -ciE 'bug:|oops|call trace|lockup|self-detected' ; echo e$((3+4))e", b"\n0\r\ne7e")


@pytest.mark.linux
@needs_linux
def test_the_whole_memory_is_what_it_was(linux: Live) -> None:
    album, domain = linux.guest.album, linux.guest.domain
    hashes = []

    def both() -> tuple[str, str]:
        return memory_hash(domain), hashlib.sha256(domain.core.save()).hexdigest()

    def take() -> None:
        album.take("exact")
        hashes.append(both())

    linux.ask(take)
    for number in range(3):
        linux.alive(number)

        def back() -> None:
            kept = album.restore("exact")
            hashes.append(both())
            album.forget(kept.name)

        linux.ask(back)
    assert len(set(hashes)) == 1
    linux.ask(lambda: album.forget("exact"))


@pytest.mark.linux
@needs_linux
def test_work_goes_on_after_a_restore(linux: Live) -> None:
    linux.tools.snapshot(linux.domid, "work")
    for _ in range(3):
        linux.tools.restore(linux.domid, "work")
        linux.command("a=$(wc -l < /tmp/ticks); b=$(wc -l < /tmp/sums); echo counted-$((1 + 2))", b"counted-3")
        more = "[ $(wc -l < /tmp/ticks) -gt $((a + 3)) ] && [ $(wc -l < /tmp/sums) -gt $b ]"
        linux.command(f"until {more}; do sleep 0.1; done; echo it-$((1 + 1))-works", b"it-2-works")
    linux.tools.forget(linux.domid, "work")


@pytest.mark.linux
@needs_linux
def test_what_was_typed_after_a_snapshot_is_undone(linux: Live) -> None:
    linux.command("echo before > /root/file; sync; echo ok-$((5*5))", b"ok-25")
    linux.tools.snapshot(linux.domid, "file")
    linux.command("echo after > /root/file; echo ok-$((6*6))", b"ok-36")
    linux.tools.restore(linux.domid, "file")
    linux.command("echo it-says-$(cat /root/file)", b"it-says-before")


@pytest.mark.linux
@needs_linux
def test_a_guest_that_powered_off_comes_alive(tmp_path: Path) -> None:
    live = Live(write_cfg(tmp_path, memory=80, extra='on_poweroff = "preserve"\non_crash = "preserve"\n'))
    try:
        live.until(b"/root# ")
        live.tools.snapshot(live.domid, "up")
        for number, end in enumerate(("poweroff -f", "echo c > /proc/sysrq-trigger", "poweroff -f")):
            live.guest.type(end.encode() + b"\n")
            until(lambda: live.guest.domain.ended, lambda: "it does not end")
            assert live.guest.domain.ended == ("crash" if "sysrq" in end else "poweroff")
            live.tools.restore(live.domid, "up")
            assert live.guest.domain.ended == ""
            live.alive(number)
        assert live.domid not in live.tools.autopsies
    finally:
        live.close()


# --- with a guest of our own: no Linux needed --------------------------------------------------------------------------------


@pytest.fixture
def shell() -> Iterator[Live]:
    live = Live(ROOT / "guests" / "shell.cfg")
    live.until(b"xen> ")
    yield live
    live.close()


def test_a_crashed_shell_comes_alive(shell: Live) -> None:
    shell.tools.snapshot(shell.domid, "up")
    for _ in range(5):
        shell.guest.type(b"crash hard\n")
        until(lambda: shell.guest.domain.ended)
        shell.tools.restore(shell.domid, "up")
        shell.command("echo again and again", b"\nagain and again")


def test_the_clock_goes_on_from_the_present_after_a_restore(shell: Live) -> None:
    shell.tools.snapshot(shell.domid, "then")
    taken = shell.ask(shell.guest.domain.clock.now)
    time.sleep(0.5)
    shell.tools.restore(shell.domid, "then")
    shell.command("sleep 1", b"xen> ")
    assert shell.ask(shell.guest.domain.clock.now) > taken + 1_000_000_000


def test_input_that_waits_belongs_to_the_snapshot(shell: Live) -> None:
    domain = shell.guest.domain

    def busy() -> None:
        shell.guest.album.take("typed")

    before = shell.guest.transcript.end
    shell.guest.type(b"echo one two three\n" * 3)
    shell.ask(busy)
    shell.until(b"\none two three", start=before)
    shell.tools.restore(shell.domid, "typed")
    shell.command("echo still here", b"\nstill here")
    assert not domain.ended


def test_a_full_album_refuses_the_next_and_keeps_what_it_has(shell: Live) -> None:
    for number in range(MAX_SNAPSHOTS):
        shell.tools.snapshot(shell.domid, f"s{number}")
    with pytest.raises(UserError, match="64 snapshots"):
        shell.tools.snapshot(shell.domid, "one more")
    with pytest.raises(UserError, match="64 snapshots"):
        shell.tools.restore(shell.domid, "s1")  # the present would be the 65th
    shell.tools.forget(shell.domid, "s0")
    shell.tools.restore(shell.domid, "s1")
    for _ in range(5):
        shell.tools.restore(shell.domid, "s2")  # the oldest automatic one makes room
    names = [kept.name for kept in shell.guest.album.snapshots()]
    assert len(names) == MAX_SNAPSHOTS
    assert names[:63] == [f"s{number}" for number in range(1, 64)]
    shell.command("echo well", b"\nwell")


def test_names_are_checked(shell: Live) -> None:
    shell.tools.snapshot(shell.domid, "a")
    for name, said in (("a", "exists"), ("x" * 65, "will not do"), ("a\nb", "will not do"), ("\x1b[2J", "will not do")):
        with pytest.raises(UserError, match=said):
            shell.tools.snapshot(shell.domid, name)
    for verb in (shell.tools.restore, shell.tools.forget):
        with pytest.raises(UserError, match="no snapshot is called"):
            verb(shell.domid, "b")
    assert [kept.name for kept in shell.guest.album.snapshots()] == ["a"]
    assert shell.tools.snapshot(shell.domid, "").name == "snapshot-1"


def test_a_name_given_by_hand_does_not_bar_a_restore(shell: Live) -> None:
    shell.tools.snapshot(shell.domid, "before-restore-1")
    assert shell.tools.restore(shell.domid, "before-restore-1").name != "before-restore-1"


def test_a_paused_guest_is_taken_and_put_back_paused(shell: Live) -> None:
    shell.tools.pause(shell.domid)
    shell.tools.snapshot(shell.domid, "still")
    shell.tools.restore(shell.domid, "still")
    end = shell.guest.transcript.end
    shell.guest.type(b"echo x\n")
    time.sleep(0.2)
    assert shell.guest.transcript.end == end
    shell.tools.unpause(shell.domid)
    shell.command("echo on", b"\non")


def test_snapshots_cost_what_was_written(shell: Live) -> None:
    first = shell.tools.snapshot(shell.domid, "first")
    second = shell.tools.snapshot(shell.domid, "second")
    assert first.pages == 0
    assert second.pages < 64
    shell.command("mem", b"xen> ")
    assert shell.tools.snapshot(shell.domid, "third").pages < 256
