"""`xenconsole create -c` with the real engine and our own guests: pipes, exit statuses, bad input, and nothing left behind."""

from __future__ import annotations

import gzip
import os
import pty
import random
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS, read_until, until

ROOT = Path(__file__).resolve().parents[2]
GUESTS = ROOT / "guests"
CREATE = [sys.executable, "-m", "xenconsole", "create", "-c"]


def create(*args: str | Path, typed: bytes = b"", timeout: str = "3000") -> subprocess.CompletedProcess[bytes]:
    command = [*CREATE, *map(str, args), "--timeout", timeout]
    done = subprocess.run(command, input=typed, capture_output=True, cwd=ROOT, timeout=PATIENCE_SECONDS)
    print(done.returncode, done.stdout[-1000:], done.stderr[-4000:])  # shown where a test fails
    return done


def engines_of(parent: int) -> list[int]:
    """Engine processes whose parent is that process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and b"emulator.control.engine" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_guest_answers_what_a_pipe_types_and_powers_off() -> None:
    done = create(GUESTS / "shell.cfg", typed=b"echo one two\npoweroff\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\r\none two\r\n" in done.stdout and done.stdout.endswith(b"powering off\r\n")


def test_the_same_input_gives_the_same_bytes() -> None:
    runs = {create(GUESTS / "shell.cfg", typed=b"help\nmem\npoweroff\n").stdout for _ in range(2)}
    assert len(runs) == 1


@pytest.mark.parametrize("on_crash", ["destroy", "preserve"])
def test_a_crash_is_status_3_and_shows_where(on_crash: str) -> None:
    done = create(GUESTS / "shell.cfg", f"on_crash={on_crash}", typed=b"crash hard\n")
    assert done.returncode == 3
    for part in (b"crashed:", b"rip     ffffffff8", b"ud2", b"stack at rsp"):
        assert part in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reboot_goes_on_and_may_be_refused() -> None:
    session = subprocess.Popen([*CREATE, str(GUESTS / "shell.cfg")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert session.stdin and session.stdout
    session.stdin.write(b"reboot\n")
    session.stdin.flush()
    first = read_until(session.stdout.fileno(), b"xen> ")
    read_until(session.stdout.fileno(), b"xen> ", first.partition(b"xen> ")[2])
    session.stdin.write(b"poweroff\n")
    session.stdin.close()
    assert session.wait(PATIENCE_SECONDS) == 0
    session.stdout.close()
    refused = create(GUESTS / "shell.cfg", "on_reboot=destroy", typed=b"reboot\n")
    assert refused.returncode == 1 and b"rebooted" in refused.stderr


def test_a_guest_that_spins_deaf_is_ended_by_the_timeout() -> None:
    done = create(GUESTS / "shell.cfg", typed=b"spin 60 masked\n", timeout="2")
    assert done.returncode == 4 and done.stderr.count(b"\n") == 1


KERNEL = (GUESTS / "images" / "hello.elf").read_bytes()
BAD_KERNELS = {
    "empty": b"",
    "truncated": KERNEL[: len(KERNEL) // 2],
    "headers only": KERNEL[:64],
    "random": random.Random(1).randbytes(100_000),
    "text": b"#!/bin/sh\necho hello\n",
    "no Xen kernel": Path("/bin/true").read_bytes() if Path("/bin/true").exists() else b"\x7fELF",
    "a bomb": gzip.compress(bytes(1 << 26)),
}


@pytest.mark.parametrize("kind", BAD_KERNELS)
def test_a_bad_kernel_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(BAD_KERNELS[kind])
    (tmp_path / "bad.cfg").write_text('name = "bad"\nkernel = "kernel"\nmemory = 16\n')
    done = create(tmp_path / "bad.cfg")
    assert done.returncode == 2 and done.stdout == b""
    assert str(kernel).encode() in done.stderr and done.stderr.count(b"\n") == 1, done.stderr


def test_a_kernel_that_cannot_be_read_at_all_is_told_at_once(tmp_path: Path) -> None:
    huge, pipe = tmp_path / "huge", tmp_path / "pipe"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    os.mkfifo(pipe)
    for kernel, said in ((huge, b"too large"), (pipe, b"not a regular file")):
        done = create(GUESTS / "hello.cfg", f"kernel={kernel}")
        assert done.returncode == 2 and str(kernel).encode() in done.stderr and said in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kernel=/nonexistent", "/nonexistent"),
        ("kernel=/", "not a regular file"),
        ("ramdisk=/nonexistent", "/nonexistent"),
        ("ramdisk=/dev/zero", "not a regular file"),
        ("memory=0", "memory"),
        ("memory=1000000", "memory"),
        ("vcpus=0", "vcpus"),
        ("on_crash=explode", "on_crash"),
        ("name=", "name"),
    ],
)
def test_a_bad_setting_is_one_line(setting: str, said: str) -> None:
    done = create(GUESTS / "hello.cfg", setting)
    assert done.returncode == 2 and done.stdout == b""
    assert said.encode() in done.stderr and done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr, done.stderr


class OnTerminal:
    """The shell guest on a pseudo-terminal."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*CREATE, str(GUESTS / "shell.cfg")],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            start_new_session=True,
        )
        self.seen = b""

    def until(self, text: bytes) -> None:
        self.seen = read_until(self.master, text, self.seen)

    def ended(self) -> int:
        """Exit status; the terminal must be as it was."""
        status = self.process.wait(PATIENCE_SECONDS)
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        print(self.seen)  # shown where the status is not the expected one
        assert termios.tcgetattr(self.slave) == self.before
        return status


def test_on_a_terminal_keys_are_echoed_by_the_guest_and_all_is_restored() -> None:
    terminal = OnTerminal()
    terminal.until(b"xen> ")
    (engine,) = engines_of(terminal.process.pid)
    os.write(terminal.master, b"echo typed\r")
    terminal.until(b"\r\ntyped\r\n")
    os.write(terminal.master, b"\x1d")
    terminal.until(b"y/n")
    os.write(terminal.master, b"y")
    assert terminal.ended() == 1
    until(lambda: gone(engine))


def test_a_killed_engine_is_told_and_the_terminal_restored() -> None:
    terminal = OnTerminal()
    terminal.until(b"xen> ")
    (engine,) = engines_of(terminal.process.pid)
    os.kill(engine, signal.SIGKILL)
    terminal.until(b"the engine was killed by SIGKILL")
    assert terminal.ended() == 1


def test_killing_the_session_leaves_no_engine() -> None:
    terminal = OnTerminal()
    terminal.until(b"xen> ")
    (engine,) = engines_of(terminal.process.pid)
    terminal.process.kill()
    terminal.process.wait(PATIENCE_SECONDS)
    until(lambda: gone(engine))
