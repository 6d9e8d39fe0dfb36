"""A terminal that stays open and takes nothing: the app goes on, is drawn whole when it is read again, and ends when it is told to."""

from __future__ import annotations

import os
import pty
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import pytest
from textual.drivers._writer_thread import MAX_QUEUED_WRITES, WriterThread

from tests.patience import read_until, until
from xenconsole.terminal.driver import AltKeysDriver

ROOT = Path(__file__).resolve().parents[2]


class Deaf:
    """The app on one small guest in a pseudo-terminal that is read only when asked to be."""

    def __init__(self, folder: Path) -> None:
        self.status: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color", "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder), "LC_ALL": "C.UTF-8"}
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, "-m", "xenconsole", "guests/shell.cfg"], environment)
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def read_until(self, what: bytes) -> None:
        read_until(self.fd, what)

    def press_unread(self) -> None:
        """Views that draw the whole screen anew, many times what the terminal's buffer holds."""
        for key in b"nl1b" * 20:
            os.write(self.fd, bytes([key]))
            time.sleep(0.05)

    def ended(self) -> int:
        """Its exit status. The terminal is not read meanwhile."""

        def reaped() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
            return bool(pid)

        until(reached=reaped, told=lambda: "the app does not end")
        assert self.status is not None
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Deaf]:
    made = Deaf(tmp_path)
    made.read_until(b"shell")
    time.sleep(0.5)
    try:
        yield made
    finally:
        made.close()


def test_a_terminal_that_takes_nothing_does_not_keep_the_app_from_ending(deaf: Deaf) -> None:
    deaf.press_unread()
    os.kill(deaf.pid, signal.SIGTERM)
    assert deaf.ended() == 1


def test_a_terminal_that_is_read_again_shows_what_is_asked_for(deaf: Deaf) -> None:
    deaf.press_unread()
    time.sleep(1)  # longer than the app's patience
    os.write(deaf.fd, b"m")
    deaf.read_until(b"event channels and grants")
    os.kill(deaf.pid, signal.SIGTERM)
    assert deaf.ended() == 1


class _Screenless:
    """An app of which the driver wants no more than to draw anew."""

    def __init__(self) -> None:
        self.asked: list[dict[str, bool]] = []
        self.ansi_color = False

    def call_later(self, what: Callable[..., object], **words: bool) -> None:
        self.asked.append(words)

    def refresh(self, **words: bool) -> None:
        raise AssertionError("asked for later, not done here")


def test_what_finds_no_room_is_dropped_at_once_and_all_is_drawn_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenconsole.terminal.driver.PATIENCE_SECONDS", 0.05)
    app = _Screenless()
    driver = AltKeysDriver.__new__(AltKeysDriver)
    driver._app, driver._stalled = app, False  # type: ignore[assignment]
    writer = driver._writer_thread = WriterThread(None)  # type: ignore[arg-type]  # never started: it takes nothing
    for number in range(MAX_QUEUED_WRITES):
        driver.write(str(number))
    began = time.monotonic()
    for _ in range(1000):
        driver.write("lost")
    assert time.monotonic() - began < 1000 * 0.05 / 2 and not app.asked, "it waits once, not for each"
    while not writer._queue.empty():
        writer._queue.get()
    driver.write("drawn")
    assert writer._queue.get() == "drawn" and app.asked == [{"layout": True}]
    for number in range(MAX_QUEUED_WRITES):
        driver.write(str(number))
    driver.close()  # returns though nobody takes what waits
