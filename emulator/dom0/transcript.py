"""What a guest said on its console, from its first byte: offsets count all of it, the newest part is kept."""

from __future__ import annotations

import threading
from collections import deque

KEPT_BYTES = 4 << 20
_BELL = 7
_MOST_PARTS = 4096


class Transcript:
    """Written by the domain's holder, read by anyone."""

    def __init__(self, kept: int = KEPT_BYTES) -> None:
        self._kept = kept
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self.end = 0
        self.bells = 0
        self._serial: deque[tuple[int, int]] = deque(maxlen=_MOST_PARTS)
        self._lock = threading.Lock()

    def append(self, data: bytes, *, serial: bool = False) -> None:
        """Take what the guest said; `serial`: by console_io, as to Xen's serial line."""
        with self._lock:
            if serial and data:
                last = self._serial.pop() if self._serial and self._serial[-1][1] == self.end else (self.end, self.end)
                self._serial.append((last[0], self.end + len(data)))
            self._chunks.append(data)
            self._held += len(data)
            self.end += len(data)
            self.bells += data.count(_BELL)
            while self._held - len(self._chunks[0]) > self._kept:
                self._held -= len(self._chunks.popleft())
            if len(self._chunks) > 4096:  # a guest that speaks a byte at a time
                joined = b"".join(self._chunks)
                self._chunks = deque((joined,))

    def read(self, offset: int, limit: int) -> tuple[int, bytes, int]:
        """(offset of the first byte given, bytes, end): from `offset` where that is still kept."""
        with self._lock:
            start = self.end - self._held
            offset = max(offset, start)
            skip = offset - start
            parts: list[bytes] = []
            room = limit
            for chunk in self._chunks:
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                part = chunk[skip : skip + room]
                skip = 0
                parts.append(part)
                room -= len(part)
                if not room:
                    break
            return offset, b"".join(parts), self.end

    def serial(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """The parts between two offsets that came by console_io."""
        with self._lock:
            return tuple((max(a, start), min(b, end)) for a, b in self._serial if a < end and b > start)

    def tail(self, size: int) -> bytes:
        return self.read(self.end - size, size)[1]
