"""The prompt's history, kept over sessions in the user's state folder. Nothing here fails: a history is a convenience."""

from __future__ import annotations

import os
from pathlib import Path

from emulator.folders import user_folder

LINES = 500
LIMIT = 1 << 18
"""Bytes of the file that are read at most."""


def history_path() -> Path:
    return user_folder("state", "history", what="the history")


class History:
    """Lines typed at the prompt, oldest first. Without a path nothing is kept on disk."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.lines: list[str] = []
        if path is None:
            return
        try:
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LIMIT))
                text = file.read(LIMIT).decode("utf-8", "replace")
        except OSError:
            return  # none yet, or not ours to read: the session begins with an empty one
        self.lines = [line for line in text.split("\n") if line and line.isprintable()][-LINES:]

    def add(self, line: str) -> None:
        """Keep a line unless it repeats the last one."""
        if self.lines[-1:] == [line] or not line.isprintable():
            return
        self.lines.append(line)
        del self.lines[:-LINES]
        self._save()

    def _save(self) -> None:
        """Replace the file in one step; the newest of two apps wins."""
        if self._path is None:
            return
        draft = self._path.with_name(f"history.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
            draft.chmod(0o600)
            draft.replace(self._path)
        except OSError:
            self._path = None  # a full or read-only disk: this session's lines stay in memory
