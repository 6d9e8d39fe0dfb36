"""The engine's process as the one who starts it sees it: spawned on one end of a socketpair, its last words in an unlinked file.

The child has no terminal to touch: standard input is empty, output and errors go to the log file, and it leads a session of its
own, so that the terminal's Ctrl-C, Ctrl-Z and hang-up are the app's alone. It ends with its connection or its parent.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

EPITAPH_SECONDS: Final = 10.0
END_SECONDS: Final = 5.0
TAIL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is to run. What is 0 or empty is left to the engine: memory pool, physical CPUs, scheduler (credit2), balloon policy (off),
    and xenstore's socket (one of its own; "off": none)."""

    pool_mib: int = 0
    cpus: int = 0
    name: str = ""
    scheduler: str = ""
    xenstored: str = ""
    balloon_policy: str = ""
    trace: bool = True

    def arguments(self) -> list[str]:
        """Of the engine's command line."""
        words = [f"--{one.name.replace('_', '-')}={value}" for one in fields(self) if (value := getattr(self, one.name)) and one.name != "trace"]
        return words if self.trace else [*words, "--no-trace"]


class EngineProcess:
    """An engine that we started. All waiting is asynchronous."""

    def __init__(self, popen: subprocess.Popen[bytes], log: int) -> None:
        self._popen = popen
        self._log = log
        self._killed = False

    @classmethod
    def start(cls, options: EngineOptions | None = None, *, module: str = "emulator.control.engine") -> tuple[EngineProcess, socket.socket]:
        """Start the engine (`python -m module`); returns the process and our end of the socketpair.

        Call it from the main thread: the engine dies with the thread that started it (PR_SET_PDEATHSIG)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        log, path = tempfile.mkstemp(prefix="xenconsole-engine-", suffix=".log")
        os.unlink(path)  # open on both sides, gone with the last of them
        fcntl.fcntl(log, fcntl.F_SETFL, os.O_APPEND)  # the engine may cut the file while it writes
        command = [sys.executable, "-P", "-m", module]
        command += ["--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
        command += (options or EngineOptions()).arguments()
        try:
            popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs.fileno()], env=_environment(),
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            ours.close()
            os.close(log)
            raise
        finally:
            theirs.close()
        return cls(popen, log), ours

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def epitaph(self) -> str:
        """How the engine ended and its last log line, for one line on the screen. Waits a moment for its end."""
        await self._exited(EPITAPH_SECONDS)
        told = _status(self._popen.returncode)
        last = self.last_line()
        return f"{told}; last log line: {last}" if last else told

    def tail(self) -> str:
        """The last lines of the engine's log, crash report included; printable."""
        if self._log < 0:
            return ""
        size = os.fstat(self._log).st_size
        text = os.pread(self._log, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
        return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)

    def last_line(self) -> str:
        lines = [line.strip() for line in self.tail().splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    async def end(self) -> None:
        """Wait for the engine to end by itself, as it does without its connection; then insist."""
        for wait, act in ((END_SECONDS, self._popen.terminate), (END_SECONDS, self._popen.kill)):
            if await self._exited(wait):
                break
            self._insist(act)
        else:
            await self._exited(END_SECONDS)
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    @staticmethod
    def _insist(act: Callable[[], None]) -> None:
        try:
            act()
        except ProcessLookupError:
            pass  # it ended between the look and the signal

    async def _exited(self, seconds: float) -> bool:
        """Poll: no thread, no signal handler, and the child may end at any time."""
        deadline, pause = time.monotonic() + seconds, 0.002
        while self._popen.poll() is None:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return True


def _environment() -> dict[str, str]:
    """The environment in which the engine finds this very copy of the code, wherever we were imported from.

    An installed copy is found anyway; a checkout's folder goes on the path. Never the current folder by accident (-P)."""
    root = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ)
    if root not in {str(Path(sysconfig.get_path(kind)).resolve()) for kind in ("purelib", "platlib")}:
        others = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
        environment["PYTHONPATH"] = os.pathsep.join([root, *others])
    return environment


def _status(code: int | None) -> str:
    if code is None:
        return "the engine no longer answers but still runs"
    if code >= 0:
        return f"the engine ended with status {code}"
    try:
        return f"the engine was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"the engine was killed by signal {-code}"
