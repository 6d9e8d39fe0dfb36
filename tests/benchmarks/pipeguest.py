"""A guest behind a pipe: what it prints is read with the time of its arrival, what we type goes to its console.

The same class drives our guests (`xenconsole create -c`) and QEMU's (`-serial stdio`), so that both are timed alike.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
PROMPT = re.compile(rb"[#$] \Z")


class GuestFailed(Exception):
    """The guest ended, or said nothing that fits, with what it printed last."""


def cpu_seconds(root: int) -> float:
    """CPU time of a process and of all that it started and that still lives, to the nanosecond (schedstat's first field)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended while we looked
    family = [root]
    for process in family:
        family += [child for child, parent in parents.items() if parent == process]
    total = 0
    for process in family:
        for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total / 1e9


class PipeGuest:
    """A running guest process; a context manager that leaves no process behind."""

    def __init__(self, command: list[str], *, cwd: Path | None = None) -> None:
        self.command = command
        self.output = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the guest
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )

    def __enter__(self) -> PipeGuest:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def wait_for(self, pattern: re.Pattern[bytes], timeout: float, *, start: int = 0) -> tuple[re.Match[bytes], float]:
        """The first match in the output from `start` on (escape sequences left out) and the moment it was complete.

        Raises GuestFailed when the process ends or `timeout` seconds pass without one.
        """
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while True:
            match = pattern.search(ESCAPE.sub(b"", self.output[start:]))
            if match:
                return match, time.monotonic()
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestFailed(f"nothing like {pattern.pattern!r} in {timeout:.0f} s{self._told()}")
            if select.select([descriptor], [], [], left)[0]:
                chunk = os.read(descriptor, 65536)
                if not chunk:
                    raise GuestFailed(f"ended with status {self.process.wait()}{self._told()}")
                self.output += chunk

    def boot(self, timeout: float = 120) -> float:
        """Seconds from start to the shell's prompt."""
        return self.wait_for(PROMPT, timeout)[1] - self.started

    def cpu(self) -> float:
        """CPU seconds that the guest's processes have taken so far."""
        return cpu_seconds(self.process.pid)

    def run(self, command: str, timeout: float = 120) -> tuple[str, float]:
        """Types a command; its output and the CPU seconds that it took here. Raises GuestFailed when it exits non-zero.

        CPU time, for what runs here keeps one core busy, and a busy machine must not count.
        """
        start = len(self.output)
        began = self.cpu()
        # The line as echoed holds the quotes (and may be wrapped), so only the shell's own output fits the pattern.
        self.type(f'echo "@<"; {command}; echo "@@"$?"@@"\n')
        match, _ = self.wait_for(re.compile(rb"(?s)@<\r?\n(.*?)@@(\d+)@@\r?\n"), timeout, start=start)
        took = self.cpu() - began
        self.wait_for(re.compile(rb"@@\r?\n.*[#$] \Z", re.DOTALL), 10, start=start)
        text = match.group(1).decode(errors="replace").replace("\r\n", "\n")
        if match.group(2) != b"0":
            raise GuestFailed(f"{command!r} exited with {match.group(2).decode()}: {text}")
        return text, took

    def _told(self) -> str:
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        return f"; last output:\n{self.output[-800:].decode(errors='replace')}\n{errors[-800:]}"
