"""Our own guests on the engine: what they say, and that nothing rogue tries is carried out. One thread, no host around them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.dom0.config import load_config
from emulator.dom0.guest import Guest, build_guest
from emulator.dom0.xenstore import Store
from emulator.hypervisor.mailbox import ToBackend
from tests.patience import PATIENCE_SECONDS, until

GUESTS = Path(__file__).resolve().parents[2] / "guests"
REFERENCE = GUESTS.parent / "tests/reference"
SLICE_NS = 5_000_000


class Session:
    """A guest run by hand, its console read and typed to."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.text = ""

    def type(self, text: str) -> None:
        self.guest.domain.post(ToBackend("console", text.encode()))

    def run_until(self, pattern: str) -> str:
        """Run until the console's text since the last call matches, or the guest ended; returns that text."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not re.search(pattern, self.text) and not self.guest.domain.ended:
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if self.guest.turn(0, SLICE_NS) != 0:
                time.sleep(0.001)
            self.text += self.guest.transcript.tail(self.guest.transcript.end - self._seen).decode()
            self._seen = self.guest.transcript.end
        assert re.search(pattern, self.text), f"ended ({self.guest.domain.ended}) without {pattern!r} in {self.text!r}"
        said, self.text = self.text, ""
        return said

    def run_to_the_end(self) -> str:
        """Run until the guest ended; how."""
        until(lambda: self.guest.domain.ended or self.guest.turn(0, SLICE_NS) is None)
        return self.guest.domain.ended

    _seen = 0

    def ask(self, command: str) -> str:
        """The shell's answer to a command, without its echo and the next prompt."""
        self.type(command + "\r")
        said = self.run_until(r"\r\nxen> $")
        assert said.startswith(command + "\r\n")
        return said[len(command) + 2 : -len("\r\nxen> ")]


@contextmanager
def booted(name: str) -> Iterator[Session]:
    guest = build_guest(load_config(GUESTS / f"{name}.cfg"), 1, Store())
    domain = guest.domain
    guest.connection.on_output = lambda: domain.post(ToBackend("xenstore", b""))
    try:
        yield Session(guest)
    finally:
        guest.close()


def test_hello_greets_by_both_voices_and_goes_on() -> None:
    with booted("hello") as hello:
        said = hello.run_until(r"hello 1: up \d+\.\d+ s")
        assert (up := re.search(r"up (\d+)", said)) and int(up[1]) >= 3
        assert "greetings by console_io" in said and "Hello from a paravirtualized guest" in said
        assert re.search(r"Xen +4\.17", said) and re.search(r"memory +4 MiB, 1024 pages", said)


def test_counter_tells_its_rate_every_second() -> None:
    with booted("counter") as counter:
        first = counter.run_until(r"M steps/s, \d+ M in \d+ s, state [0-9a-f]{16}")
        assert first.split("state")[1] != counter.run_until(r"M steps/s, \d+ M in ([2-9]|\d\d+) s, state [0-9a-f]{16}").split("state")[1]


def test_the_shell_edits_lines_and_survives_what_it_is_told_to_do() -> None:
    with booted("shell") as shell:
        shell.run_until("xen> $")
        assert "poweroff" in shell.ask("help")
        assert shell.ask("echo one  two") == "one two"
        shell.type("echp\x7fo  \x15echo typed\x7f\r")
        assert "\r\ntype\r\nxen> " in shell.run_until(r"\r\nxen> $")
        assert "unknown command" in shell.ask("frobnicate")
        assert "8 MiB, 2048 pages; reservation 2048" in shell.ask("mem")
        assert shell.ask("peek 0xffffffff80000000 4").endswith("fc 48 c7 c4".ljust(48) + " .H..")
        assert "cannot be read: #PF" in shell.ask("peek 0xffff830000000000")
        for kind in ("pf", "gp", "ud", "de", "bp"):
            assert shell.ask(f"fault {kind}").startswith(f"caught #{kind.upper()}, error code 0")
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert shell.ask("time").startswith(today) or time.strftime("%Y-%m-%d", time.gmtime()) != today
        began = time.monotonic()
        assert shell.ask("sleep 1") == ""
        assert time.monotonic() - began > 0.9
        for command in ("sleep 100", "spin 100"):
            shell.type(command + "\r")
            shell.run_until(command)
            shell.type("\x03")
            assert "^C" in shell.run_until(r"\r\nxen> $")
        shell.type("poweroff\r")
        shell.run_until("powering off")
        assert shell.run_to_the_end() == "poweroff"


def test_a_crash_is_told_by_the_guest_or_by_xen() -> None:
    for command, reason in (("crash", ""), ("crash hard", "#UD")):
        with booted("shell") as shell:
            shell.run_until("xen> $")
            shell.type(command + "\r")
            shell.run_until("rip [0-9a-f]{16}|no trap table")
            assert shell.run_to_the_end() == "crash"
            assert reason in shell.guest.domain.crash_reason


def test_nothing_that_rogue_tries_is_carried_out_and_each_refusal_is_xens() -> None:
    """reference/rogue-answers.txt says what Xen 4.17 answers to each hypercall, and where its source does; what it does with an instruction
    stands beside the attempt in the guest, which tells of any other outcome."""
    with booted("rogue") as rogue:
        said = rogue.run_until(r"rogue: \d+ attempts, \d+ stopped, \d+ escaped")
    lines = said.replace("\r", "").splitlines()
    assert not [line for line in lines if "ESCAPED" in line or "(Xen: " in line]
    wanted = [re.split(r"  +", line) for line in (REFERENCE / "rogue-answers.txt").read_text().splitlines() if not line.startswith("#")]
    for answer, where, name in wanted:
        line = next((line for line in lines if line.startswith(f"  {name:<40} ")), "")
        assert line[3 + max(40, len(name)) :] == (f"refused: {answer}" if answer != "0" else "returned 0: nothing done"), (name, where)
    calls = [line for line in lines if "refused: " in line or "nothing done" in line]
    assert len(calls) == len(wanted) > 290, "a hypercall that the reference does not know"
    match = re.search(r"rogue: (\d+) attempts, (\d+) stopped, 0 escaped", said)
    assert match is not None and match[1] == match[2] and int(match[1]) > 420
