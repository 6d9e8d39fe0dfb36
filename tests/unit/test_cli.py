"""The command line as its users meet it: a program with arguments, pipes or a terminal, signals and an exit status."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS, read_until, until
from tests.unit.fake_host import CRASH, FLOOD
from xenconsole import __version__
from xenconsole.cli.crash import crash_report

ROOT = Path(__file__).resolve().parents[2]
FAKE = [sys.executable, "-m", "tests.unit.cli_with_fake"]
REAL = [sys.executable, "-m", "xenconsole"]


def cfg(folder: Path, name: str) -> str:
    path = folder / f"{name}.cfg"
    path.write_text(f'kernel = "/dev/null"\nname = "{name}"\n')
    return str(path)


def run(command: list[str], *, typed: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, input=typed, capture_output=True, cwd=ROOT, timeout=PATIENCE_SECONDS, env={**os.environ, **environment})
    print(done.returncode, done.stdout[-1000:], done.stderr[-4000:])  # shown where a test fails
    return done


class OnTerminal:
    """The program on a pseudo-terminal of its own."""

    def __init__(self, *args: str, **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*FAKE, "create", "-c", *args], stdin=self.slave, stdout=self.slave, stderr=self.slave, cwd=ROOT,
            env={**os.environ, **environment}, process_group=0,
        )  # fmt: skip
        self.seen = b""

    def until(self, text: bytes) -> None:
        self.seen = read_until(self.master, text, self.seen)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def ended(self) -> int:
        """Exit status; the terminal must be as it was."""
        status = self.process.wait(PATIENCE_SECONDS)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        try:
            while True:
                self.seen += os.read(self.master, 65536)
        except OSError:  # EIO: all that was said has been read
            print(self.seen)  # shown where the status is not the expected one
            return status

    def raw(self) -> bool:
        lflag = termios.tcgetattr(self.slave)[3]
        return isinstance(lflag, int) and not lflag & termios.ICANON

    def until_raw(self, raw: bool = True) -> None:
        until(lambda: self.raw() == raw)


def test_version_and_help_go_to_standard_output() -> None:
    assert run([*REAL, "--version"]).stdout.decode() == f"xenconsole {__version__}\n"
    told = run([*REAL, "--help"])
    assert told.returncode == 0 and b"examples:" in told.stdout
    told = run([*REAL, "create", "--help"])
    assert told.returncode == 0 and b"exit status:" in told.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["crate", "-c", "x.cfg"], "did you mean create?"),
        (["frobnicate"], "no verb 'frobnicate'"),
        (["fr\x1b[2Job"], "no verb 'fr?[2Job'"),
        (["--bogus"], "no option '--bogus'"),
        (["create"], "which FILE.cfg?"),
        (["create", "hello.cfg"], "without -c"),
        (["create", "-c", "hello.cfg", "memory"], "'memory' is no KEY=VALUE"),
        (["create", "-c", "hello.cfg", "--bogus"], "--bogus"),
        (["create", "-c", "hello.cfg", "--timeout", "soon"], "'soon' is no number of seconds"),
        (["create", "-c", "hello.cfg", "--timeout", "-1"], "no number of seconds"),
        (["create", "-c", "hello.cfg", "--timeout", "nan"], "no number of seconds"),
        (["create", "-c", "hello.cfg", "--scheduler", "cfs"], "invalid choice: 'cfs'"),
        (["--scheduler"], "no scheduler ''"),
        (["--balloon-policy", "maybe", "hello.cfg"], "on or off, not 'maybe'"),
        (["create", "-c", "hello.cfg", "--balloon-policy", "maybe"], "invalid choice: 'maybe'"),
        (["--scheduler=cfs", "hello.cfg"], "known: credit2, credit, rtds, bvt, null"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(args: list[str], said: str) -> None:
    done = run([*REAL, *args])
    assert done.returncode == 2 and done.stdout == b""
    assert said in done.stderr.decode() and done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'name = "x"\nkernel = \n', b":2: "),
        (b'name = "x"\n', b"kernel: must be specified"),
        (b"\xff\xfe\n", b"not UTF-8"),
        (None, b"cannot be read"),
    ],
)
def test_a_wrong_cfg_is_one_line_that_names_it(tmp_path: Path, text: bytes | None, said: bytes) -> None:
    file = tmp_path / "bad.cfg"
    if text is not None:
        file.write_bytes(text)
    done = run([*FAKE, "create", "-c", str(file)])
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.startswith(str(file).encode() + b":") and said in done.stderr and done.stderr.count(b"\n") == 1


def test_overrides_come_after_the_file_and_their_mistakes_are_the_command_lines(tmp_path: Path) -> None:
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "spin"), "name=poweroff"])
    assert (done.returncode, done.stdout) == (0, b"hello\r\n")
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "spin"), "--name", "poweroff"])
    assert (done.returncode, done.stdout) == (0, b"hello\r\n")
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "spin"), "memory=lots"])
    assert done.returncode == 2 and b'command line: memory = "lots"' in done.stderr and done.stderr.count(b"\n") == 1


def test_a_pipe_is_typed_and_its_end_is_not_the_guests(tmp_path: Path) -> None:
    typed = b"every byte \x1d\x03\x04\x00\xff counts " * 50
    with subprocess.Popen(
        [*FAKE, "create", "-c", cfg(tmp_path, "echo")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(typed)
        process.stdin.close()
        assert process.stdout.read(len(typed)) == typed
        time.sleep(0.2)
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 1


def test_a_guest_that_powers_off_is_status_0_with_its_exact_bytes(tmp_path: Path) -> None:
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "echo")], typed=b"\x1b]0;t\x07\xff then poweroff")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x1b]0;t\x07\xff then poweroff", b"")


def test_a_guest_that_is_buried_while_it_is_looked_at_ended_as_it_ended(tmp_path: Path) -> None:
    told = run([*FAKE, "create", "-c", cfg(tmp_path, "preserve")], FAKE_BURIAL="1")
    assert (told.returncode, told.stdout, told.stderr) == (0, b"last words", b"")


def test_a_flood_comes_out_whole(tmp_path: Path) -> None:
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "held")])
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout == FLOOD


@pytest.mark.parametrize(("name", "output"), [("crash", b"hello\r\n"), ("preserve", b"last words")])
def test_a_crash_is_status_3_with_the_last_state(tmp_path: Path, name: str, output: bytes) -> None:
    done = run([*FAKE, "create", "-c", cfg(tmp_path, name)])
    assert (done.returncode, done.stdout) == (3, output)
    for part in (b"crashed: page fault in ?[31mkernel mode", b"rip     0000000000001000", b"ud2", b"stack at rsp", b"#PF"):
        assert part in done.stderr


def test_a_restarted_guests_console_goes_on(tmp_path: Path) -> None:
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "reboot")])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\r\nhello\r\n", b"")


def test_a_timeout_is_status_4(tmp_path: Path) -> None:
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "spin"), "--timeout", "3000"], FAKE_LEAP="1")
    assert done.returncode == 4 and b"spin still ran after 3000 s" in done.stderr, done
    done = run([*FAKE, "create", "-c", cfg(tmp_path, "spin"), "--timeout", "0.3"], FAKE_GATE=str(tmp_path / "never"))
    assert done.returncode == 4, done


def test_output_that_nobody_reads_ends_it_quietly(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*FAKE, "create", "-c", cfg(tmp_path, "held")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.read(10)
        process.stdout.close()
        status = process.wait(PATIENCE_SECONDS)
        assert (status, process.stderr.read()) == (1, b"")


def test_closed_descriptors_do_no_harm(tmp_path: Path) -> None:
    command = " ".join([*FAKE, "create", "-c", cfg(tmp_path, "poweroff")])
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=ROOT, timeout=PATIENCE_SECONDS).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_it_and_restore_the_terminal(tmp_path: Path, number: signal.Signals) -> None:
    terminal = OnTerminal(cfg(tmp_path, "echo"))
    terminal.until_raw()
    terminal.type(b"\x1b[?1049h")
    terminal.until(b"\x1b[?1049h")
    terminal.process.send_signal(number)
    assert terminal.ended() == 1
    assert b"\x1b[?1049l" in terminal.seen and number.name.encode() in terminal.seen


def test_a_lost_engine_is_told_and_the_terminal_restored(tmp_path: Path) -> None:
    terminal = OnTerminal(cfg(tmp_path, "echo"), FAKE_LOSE="1")
    terminal.until_raw()
    terminal.type(b"lose")
    assert terminal.ended() == 1
    assert b"the engine closed the connection" in terminal.seen


def test_keys_reach_the_guest_and_harmful_output_does_not_reach_the_terminal(tmp_path: Path) -> None:
    terminal = OnTerminal(cfg(tmp_path, "echo"))
    terminal.until_raw()
    terminal.type(b"\x03\x1a\x11a\x1b]52;c;QUJD\x07b\x1b[6nc\x1b[31md")
    terminal.until(b"abc\x1b[31md")
    terminal.type(b"poweroff")
    assert terminal.ended() == 0


def test_raw_passes_everything(tmp_path: Path) -> None:
    terminal = OnTerminal("--raw", cfg(tmp_path, "echo"))
    terminal.until_raw()
    terminal.type(b"\x1b]2;title\x07\x1b[?25l")
    terminal.until(b"\x1b]2;title\x07\x1b[?25l")
    terminal.type(b"poweroff")
    assert terminal.ended() == 0
    assert b"\x1b[?25h" in terminal.seen


def test_leaving_asks_first(tmp_path: Path) -> None:
    terminal = OnTerminal(cfg(tmp_path, "echo"))
    terminal.until_raw()
    terminal.type(b"one\x1dn")
    terminal.until(b"y/n")
    terminal.type(b"two")
    terminal.until(b"two")
    terminal.seen = b""
    terminal.type(b"\x1d\x1dx")
    terminal.until(b"x")
    terminal.type(b"\x1d")
    terminal.until(b"Destroy echo and leave?")
    terminal.type(b"y")
    assert terminal.ended() == 1


def test_a_stop_gives_the_terminal_back_and_going_on_takes_it_again(tmp_path: Path) -> None:
    terminal = OnTerminal(cfg(tmp_path, "echo"))
    terminal.until_raw()
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.until_raw(False)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until_raw()
    terminal.type(b"poweroff")
    assert terminal.ended() == 0


def test_what_takes_long_is_told_on_a_terminal_and_wiped(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    terminal = OnTerminal(cfg(tmp_path, "poweroff"), FAKE_GATE=str(gate))
    terminal.until("creating the guest …".encode())
    terminal.seen = b""
    gate.touch()
    assert terminal.ended() == 0
    assert terminal.seen.startswith(b"\r\x1b[K"), terminal.seen


def test_a_crash_report_is_laid_out() -> None:
    report = crash_report("guest", 3, CRASH)
    assert report.splitlines()[0] == "guest (domain 3) crashed: page fault in ?[31mkernel mode"
    assert max(map(len, report.splitlines())) <= 110
    assert "> 0000000000001000  0f 0b" in report
    assert "0000000000007ff0  0706050403020100" in report


def test_the_command_line_loads_neither_textual_nor_the_engine() -> None:
    code = "import sys, xenconsole.cli, xenconsole.cli.create; xenconsole.cli.main(['--version']); print(sorted(sys.modules))"
    modules = run([sys.executable, "-c", code]).stdout.decode()
    assert "'xenconsole.cli'" in modules
    for heavy in ("'textual'", "'numpy'", "'unicorn'", "'msgspec'", "'rich'"):
        assert heavy not in modules


def test_the_schedulers_it_names_are_those_that_the_engine_has() -> None:
    from emulator.hypervisor.scheduler import SCHEDULERS as KNOWN
    from xenconsole.cli import SCHEDULERS

    assert set(SCHEDULERS) == set(KNOWN)


@pytest.mark.parametrize(("path", "why"), [("taken", "another path"), ("taken/below", "Not a directory")])
def test_a_socket_that_cannot_be_is_told_once(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "taken").touch()
    done = run([*REAL, "create", "-c", cfg(tmp_path, "g"), "--xenstored", str(tmp_path / path)])
    said = done.stderr.decode()
    assert done.returncode and said.count("\n") == 1 and said.count("cannot listen") == 1 and why in said
    assert (tmp_path / "taken").is_file()
