"""Captured frames as a pcapng file (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump read.

    section header, one interface description, then an enhanced packet block a frame; all little-endian, padded to 32 bits
"""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import Final

from emulator.dom0.network.frame import Frame, complete
from emulator.errors import UserError

MAX_CAPTURE: Final = 1 << 30
"""Bytes after which a capture stops by itself."""
_LINKTYPE_ETHERNET: Final = 1
_INBOUND, _OUTBOUND = 1, 2  # epb_flags: seen from the guest
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def header(interface: str) -> bytes:
    """The blocks before the first frame. Times are in nanoseconds."""
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(4, b"xenconsole") + _option(0, b"")
    name = interface.encode("utf-8", "replace")[:64]
    described = struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0) + _option(2, name) + _option(9, b"\x09") + _option(0, b"")
    return _block(_SECTION, section) + _block(_INTERFACE, described)


def packet(data: bytes, unix_ns: int, sent: bool) -> bytes:
    """One frame; `sent`: by the guest."""
    body = struct.pack("<IIIII", 0, unix_ns >> 32, unix_ns & 0xFFFFFFFF, len(data), len(data)) + data + bytes(-len(data) % 4)
    return _block(_PACKET, body + _option(2, struct.pack("<I", _OUTBOUND if sent else _INBOUND)) + _option(0, b""))


class Capture:
    """A running capture into a new file. `add` may be called from any thread."""

    def __init__(self, path: Path, interface: str, limit: int = MAX_CAPTURE) -> None:
        """It stops by itself before its file is longer than `limit` bytes. UserError when the file exists or cannot be made."""
        self.path, self.limit = path, limit
        self.frames = 0
        self.trouble = ""
        self._lock = threading.Lock()
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0)
            self.bytes = self._file.write(header(interface)) or 0
        except FileExistsError:
            raise UserError(f"{path} exists", fix="another name for the capture") from None
        except OSError as bad:
            raise UserError(f"{path} cannot be written", why=bad.strerror or str(bad)) from bad

    def add(self, frame: Frame, unix_ns: int, sent: bool) -> None:
        data = packet(complete(frame).data, unix_ns, sent)
        with self._lock:
            if self._file.closed or self.trouble:
                return
            if self.bytes + len(data) > self.limit:
                self.trouble = f"its limit of {self.limit >> 10} KiB is reached"
                return
            try:
                self._file.write(data)
            except OSError as bad:
                self.trouble = bad.strerror or str(bad)
                return
            self.bytes += len(data)
            self.frames += 1

    def close(self) -> None:
        with self._lock:
            self._file.close()
