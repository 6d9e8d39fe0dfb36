"""A real terminal for tests: a tmux server of the test's own, with the app in its one window."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.patience import PATIENCE_SECONDS, until

ROOT = Path(__file__).resolve().parents[2]
HAS_TMUX = shutil.which("tmux") is not None
ENDED = "all-is-told"


class Terminal:
    """Runs `command` under a shell in tmux; when it ends, the screen tells its exit status and the terminal's modes."""

    def __init__(self, folder: Path, command: str, *, columns: int = 100, rows: int = 30) -> None:
        self._socket = folder / "tmux"
        self.closed = False
        environment = {**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        environment.pop("TMUX", None)
        self._environment = environment
        script = f"cd {ROOT}; {command}; echo status=$?; stty -a; echo {ENDED}; exec sleep 3600"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), script)

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if done.returncode:
            raise RuntimeError(f"tmux {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def press(self, *keys: str) -> None:
        """Keys by tmux's names."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def until(self, seen: str | Callable[[str], bool]) -> str:
        """Wait for a text on the screen, or for what the function wants of it; the screen. AssertionError with the last one."""
        screen = ""

        def looked() -> bool:
            nonlocal screen
            screen = self.screen()
            return seen(screen) if callable(seen) else seen in screen

        until(looked, lambda: f"waited for {seen!r}; the screen:\n{screen}", pause=0.05)
        return screen

    def processes(self) -> set[int]:
        """The shell and all below it."""
        shell = int(self._tmux("list-panes", "-F", "#{pane_pid}"))
        found, parents = {shell}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it ended meanwhile
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._tmux("kill-server")


def xenconsole(*words: str) -> str:
    """The command line that runs the app of this checkout."""
    return " ".join((sys.executable, "-m", "xenconsole", *words))
