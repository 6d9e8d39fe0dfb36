"""Unix sockets of our own user alone: bound where nobody is followed or displaced, and asked who is at the other end."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from emulator.errors import UserError

_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def bind_private(path: Path) -> socket.socket:
    """A listening end that only its owner can open (mode 0600). What an engine that was killed left there is replaced; anything else is
    not, links included: UserError."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode) and abandoned(path):
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _refusal(path, error) from error
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        end.bind(str(path))
    except OSError as error:
        end.close()
        raise _refusal(path, error) from error
    finally:
        os.umask(mask)
    return end


def _refusal(path: Path, error: OSError) -> UserError:
    fix = "another path, or remove what is there" if error.errno == errno.EADDRINUSE else ""
    return UserError("cannot listen", where=str(path), why=error.strerror or str(error), fix=fix)


def abandoned(path: Path) -> bool:
    """Whether nobody listens on a socket that is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def is_own_user(end: socket.socket) -> bool:
    """Whether the process at the other end of a connection runs as our user."""
    credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return bool(_UCRED.unpack(credentials)[1] == os.getuid())
