"""Debian's unmodified kernel boots to a shell, is typed into by a pipe, and answers as the host does."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.linux_guest import BUSYBOX, PROMPT, Session, kernel, needs_linux, plain, write_cfg

pytestmark = [pytest.mark.linux, needs_linux]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("linux")


@pytest.fixture(scope="module")
def shell(folder: Path) -> Iterator[Session]:
    """A booted guest at its prompt, shared by the tests of this module."""
    with Session(write_cfg(folder), "--timeout", "3000") as session:
        session.until(re.escape(PROMPT))
        session.type("stty cols 1000\n")  # the shell wraps what it echoes at the terminal's edge
        session.until(re.escape(PROMPT), start=len(session.output))
        yield session


def test_uname_is_the_kernels_own(shell: Session) -> None:
    words = shell.command("uname -a").split()
    assert words[0] == "Linux"
    assert words[1] == "guest"
    assert words[2] == kernel().name.removeprefix("vmlinuz-")
    assert "x86_64" in words


def test_md5sum_of_the_same_file_is_the_hosts(shell: Session) -> None:
    right = hashlib.md5(BUSYBOX.read_bytes(), usedforsecurity=False).hexdigest()
    for _ in range(3):
        assert shell.command("md5sum /bin/busybox").split() == [right, "/bin/busybox"]


def test_sleep_takes_as_long_as_on_the_host(shell: Session) -> None:
    """By both clocks. (Linux counts ticks until it has found Xen's clock, so on a slow machine it lags by what it missed while it booted.)"""
    began = time.time()
    first, second = (int(word) for word in shell.command("date +%s; sleep 2; date +%s").split())
    ended = time.time()
    assert 2 <= second - first < ended - began + 1 and ended - began > 1.95
    assert began - 100 < first < second < ended + 1, "the guest's clock is not the host's"


def test_floating_point_is_right(shell: Session) -> None:
    answer = shell.command("awk 'BEGIN { x = 2; for (i = 0; i < 20; i++) x = (x + 2 / x) / 2; printf \"%.17g %.17g\\n\", x, 1 / 3 * 1e300 }'")
    x = 2.0
    for _ in range(20):
        x = (x + 2 / x) / 2
    assert [float(word) for word in answer.split()] == [x, 1 / 3 * 1e300]


def test_processes_pipes_and_signals_work(shell: Session) -> None:
    assert shell.command("seq 1 1000 | sort -n -r | head -1") == "1000"
    assert shell.command("sh -c 'sleep 9 & kill $!; wait $!; echo $?'").split()[-1] == "143"
    assert shell.command("sh -c 'kill -SEGV $$'; echo $?").split()[-1] == "139"
    assert shell.command("for i in 1 2 3 4 5 6 7 8; do md5sum /bin/busybox & done; wait; echo").count("/bin/busybox\n") >= 8


def test_compression_there_and_back_keeps_every_byte(shell: Session) -> None:
    right = hashlib.sha1(BUSYBOX.read_bytes(), usedforsecurity=False).hexdigest()
    assert shell.command("gzip -c /bin/busybox | gunzip -c | sha1sum").split()[0] == right


def test_a_paste_of_many_lines_arrives_whole_and_in_order(shell: Session) -> None:
    lines = [f"echo line-{number}-$(({number} * 7))" for number in range(60)]
    start = len(shell.output)
    shell.type("\n".join(lines) + "\necho the-$((1 + 1))nd-end\n")
    end = shell.until(rb"the-2nd-end\r\n", start=start)
    shell.until(re.escape(PROMPT), start=end)
    answers = re.findall(r"^line-(\d+)-(\d+)$", plain(shell.output[start:end]), re.MULTILINE)
    assert [(int(a), int(b)) for a, b in answers] == [(number, number * 7) for number in range(60)]


def test_output_larger_than_the_ring_is_whole(shell: Session) -> None:
    numbers = shell.command("seq 1 20000").split()
    assert numbers == [str(number) for number in range(1, 20001)]


def test_control_c_reaches_what_runs(shell: Session) -> None:
    start = len(shell.output)
    shell.type("sh -c 'echo it-$((1+1))-sleeps; exec sleep 1000'\n")
    shell.until(rb"it-2-sleeps\r\n", start=start)
    shell.type("\x03")
    shell.until(re.escape(PROMPT), start=len(shell.output))
    assert shell.command("echo alive") == "alive"


def test_the_kernel_saw_nothing_wrong(shell: Session) -> None:
    shown = shell.command("dmesg | grep -iE 'bug|oops|warning|call trace| stall|lockup|unexpected|corrupt|hung' || echo clean")
    assert shown == "clean"


def test_it_runs_on_xen(shell: Session) -> None:
    assert shell.command("cat /sys/hypervisor/type /sys/hypervisor/version/major") == "xen\n4"
    assert shell.command("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") in ("xen", "tsc")
    assert "HVM" not in shell.command("cat /sys/hypervisor/guest_type")


def test_power_off_ends_with_status_0_and_nothing_on_stderr(folder: Path) -> None:
    with Session(write_cfg(folder)) as session:
        session.until(re.escape(PROMPT))
        session.type("poweroff -f\n")
        assert session.ended() == 0
        assert session.errors() == ""


def test_a_crashed_kernel_is_status_3(folder: Path) -> None:
    with Session(write_cfg(folder), "--timeout", "3000") as session:
        session.until(re.escape(PROMPT))
        session.type("echo c > /proc/sysrq-trigger\n")
        assert session.ended() == 3
        errors = session.errors()
        for part in ("crashed:", "rip", "rsp", "stack at rsp"):
            assert part in errors


def test_a_timeout_is_status_4(folder: Path) -> None:
    with Session(write_cfg(folder), "--timeout", "1.5") as session:
        assert session.ended() == 4
