"""A person's way through the app, in a real terminal on a real engine."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import until
from tests.ui.terminal import ENDED, HAS_TMUX, Terminal, xenconsole

pytestmark = [pytest.mark.tmux, pytest.mark.skipif(not HAS_TMUX, reason="tmux is missing")]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path, xenconsole("guests/hello.cfg", "guests/counter.cfg", "guests/shell.cfg"))
    try:
        yield made
    finally:
        made.close()


def nothing_left(terminal: Terminal, before: set[int]) -> None:
    """The app ended well: every process of it is gone and the terminal is as it was."""
    screen = terminal.until(ENDED)
    assert "status=0" in screen, screen

    def alive() -> set[int]:
        return {pid for pid in before if Path(f"/proc/{pid}").exists()} & terminal.processes()

    until(lambda: len(alive()) <= 1, alive)  # the shell, which by now is the sleep that keeps the screen
    assert re.search(r"(?<!-)\bicanon\b", screen), screen
    assert re.search(r"(?<!-)\becho\b", screen), screen


def row(screen: str, name: str) -> str:
    return next((line for line in screen.splitlines() if re.search(rf"\b{name}\b +[rbpscd-]{{6}}", line)), "")


def test_start_watch_type_switch_snapshot_break_restore_quit(terminal: Terminal) -> None:
    screen = terminal.until(lambda s: bool(row(s, "shell")) and bool(re.search(r"counter.*[1-9]\d\.\d", s)))
    assert "3 guests" in screen
    ours = terminal.processes()
    assert len(ours) >= 3, "the shell, the app and its engine"

    terminal.press("Down", "Down", "Down", "Enter")
    terminal.until("xen>")
    terminal.type("echo first words")
    terminal.press("Enter")
    terminal.until(lambda s: s.count("first words") == 2)
    terminal.press("M-2")
    terminal.until("M steps/s")
    terminal.press("M-3")
    terminal.until(lambda s: s.count("first words") == 2)

    terminal.press("C-]")
    terminal.until(lambda s: bool(row(s, "shell")))
    terminal.press("S")
    terminal.until(lambda s: "✓ xl save -c shell shell-1" in s)
    terminal.press("c")
    terminal.type("crash hard")
    terminal.press("Enter")
    terminal.until(lambda s: "shell: crashed" in s and "Any key returns" in s)
    terminal.press("x")
    terminal.until(lambda s: "----c-" in row(s, "shell"))
    terminal.press("R")
    terminal.until(lambda s: "S takes" in s and bool(re.search(r"shell-1 +\d\d:\d\d", s)))
    terminal.press("Enter")
    terminal.until("Go back to shell-1?")
    terminal.press("y")
    terminal.until("restored to shell-1")
    terminal.press("M-3")
    terminal.until(lambda s: "shell · blocked" in s or "shell · running" in s)
    terminal.type("echo alive again")
    terminal.press("Enter")
    terminal.until(lambda s: s.count("alive again") == 2)

    terminal.press("C-]")
    terminal.until("─ snapshots ─")
    terminal.press("Escape")
    terminal.until("─commands─")  # only then: an Escape with a key behind it is Alt and that key
    terminal.press("q")
    terminal.until("Quit and end 3 guests?")
    terminal.press("y")
    nothing_left(terminal, ours)


def test_a_killed_engine_is_told_once_and_started_anew(terminal: Terminal) -> None:
    terminal.until(lambda s: bool(row(s, "shell")) and bool(re.search(r"up ([4-9]|\d\d) s", s)))
    ours = terminal.processes()
    engine = next(pid for pid in ours if b"emulator.control.engine" in Path(f"/proc/{pid}/cmdline").read_bytes())
    terminal.resize(40, 10)
    terminal.until("guests go on")
    terminal.resize(100, 30)
    terminal.until(lambda s: bool(row(s, "shell")))
    os.kill(engine, signal.SIGKILL)
    terminal.until(lambda s: "killed by SIGKILL" in s and "Lost with it: hello, counter, shell" in s)
    terminal.press("r")
    terminal.until("lost with the old one")
    terminal.until(lambda s: bool(row(s, "shell")) and "the engine is lost" not in s and bool(re.search(r"up [0-3] s", s)))
    ours |= terminal.processes()
    terminal.press("C-c")
    terminal.until("Quit and end")
    terminal.press("y")
    nothing_left(terminal, ours)


def test_a_hang_up_leaves_nothing(terminal: Terminal) -> None:
    terminal.until(lambda s: bool(row(s, "shell")))
    ours = terminal.processes()
    terminal.press("Down", "Enter")
    terminal.close()  # as when a window is closed or a line drops

    def alive() -> set[int]:
        return {pid for pid in ours if _is_python(pid)}

    until(lambda: not alive(), alive)


def _is_python(pid: int) -> bool:
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
