"""Where the store's socket lies: in a folder of our user's own, one name for each engine.

$XDG_RUNTIME_DIR/xenconsole, else a folder in the temporary directory that only we can enter. Sockets of engines that were killed are
swept from it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from emulator.unixsocket import abandoned


def default_path() -> Path:
    """A path that no other engine uses. OSError when there is no folder to be had."""
    for folder in _folders():
        if _make_own(folder):
            for old in folder.glob("xenstored-*.sock"):
                _sweep(old)
            return folder / f"xenstored-{os.getpid()}.sock"
    return Path(tempfile.mkdtemp(prefix="xenconsole-")) / f"xenstored-{os.getpid()}.sock"


def _sweep(old: Path) -> None:
    """One that is just being made has its process, if nobody that listens yet."""
    if not Path("/proc", old.stem.removeprefix("xenstored-")).exists() and old.is_socket() and abandoned(old):
        old.unlink(missing_ok=True)


def _folders() -> Iterator[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_own(Path(runtime)):
        yield Path(runtime) / "xenconsole"
    yield Path(tempfile.gettempdir()) / f"xenconsole-{os.getuid()}"


def _make_own(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False  # the next folder, or one of a new name, will do
    return _is_own(folder)


def _is_own(folder: Path) -> bool:
    """A folder of ours that nobody else writes to; a link is none."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
