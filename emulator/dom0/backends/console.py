"""The console's backend: two byte rings in one shared page (public/io/console.h), sans-I/O.

    out: the guest writes out[2048] and moves out_prod; we read and move out_cons
    in:  we write in[1024] and move in_prod; the guest reads and moves in_cons

Indices run freely and wrap at 2**32. A guest that makes them nonsense is not served, and nothing else happens.
"""

from __future__ import annotations

from collections.abc import Callable

from emulator.abi.xen import (
    CONSOLE_IN,
    CONSOLE_IN_CONS,
    CONSOLE_IN_PROD,
    CONSOLE_IN_SIZE,
    CONSOLE_OUT,
    CONSOLE_OUT_CONS,
    CONSOLE_OUT_PROD,
    CONSOLE_OUT_SIZE,
)

MAX_QUEUED_INPUT = 1 << 20
_TAIL = 256


class ConsoleBackend:
    """`page`: the console page; `notify`: sends the guest its event (`notify_late`: there is no hurry); `output`: takes what the guest says."""

    def __init__(self, page: memoryview, notify: Callable[[], None], notify_late: Callable[[], None], output: Callable[[bytes], None]) -> None:
        self._page = page
        self._notify, self._notify_late = notify, notify_late
        self._output = output
        self._input = bytearray()
        self.tail = b""
        self.typed = b""
        self.bytes_in = 0
        self.bytes_out = 0

    def _index(self, at: int) -> int:
        return int.from_bytes(self._page[at : at + 4], "little")

    def _set_index(self, at: int, value: int) -> None:
        self._page[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")

    def kick(self) -> None:
        """The guest sent an event: take what it wrote, give what fits."""
        if self._drain():
            self._notify_late()
        if self._fill():
            self._notify()

    def send(self, data: bytes) -> int:
        """Input for the guest; returns how many bytes were accepted."""
        accepted = data[: MAX_QUEUED_INPUT - len(self._input)]
        self.typed = (self.typed + accepted)[-_TAIL:]
        self._input += accepted
        if self._fill():
            self._notify()
        return len(accepted)

    def indices(self) -> tuple[int, int, int, int]:
        """in_cons, in_prod, out_cons, out_prod as they stand."""
        return self._index(CONSOLE_IN_CONS), self._index(CONSOLE_IN_PROD), self._index(CONSOLE_OUT_CONS), self._index(CONSOLE_OUT_PROD)

    @property
    def waiting(self) -> int:
        """Input bytes that found no room yet."""
        return len(self._input)

    def _drain(self) -> bool:
        cons, prod = self._index(CONSOLE_OUT_CONS), self._index(CONSOLE_OUT_PROD)
        count = prod - cons & 0xFFFFFFFF
        if not count or count > CONSOLE_OUT_SIZE:
            return False
        start = cons % CONSOLE_OUT_SIZE
        first = min(count, CONSOLE_OUT_SIZE - start)
        data = bytes(self._page[CONSOLE_OUT + start : CONSOLE_OUT + start + first])
        if first < count:
            data += bytes(self._page[CONSOLE_OUT : CONSOLE_OUT + count - first])
        self._set_index(CONSOLE_OUT_CONS, prod)
        self.bytes_out += count
        self.tail = (self.tail + data)[-_TAIL:]
        self._output(data)
        return True

    def _fill(self) -> bool:
        if not self._input:
            return False
        cons, prod = self._index(CONSOLE_IN_CONS), self._index(CONSOLE_IN_PROD)
        used = prod - cons & 0xFFFFFFFF
        if used >= CONSOLE_IN_SIZE:
            return False
        count = min(len(self._input), CONSOLE_IN_SIZE - used)
        for offset in range(count):
            self._page[CONSOLE_IN + (prod + offset) % CONSOLE_IN_SIZE] = self._input[offset]
        del self._input[:count]
        self._set_index(CONSOLE_IN_PROD, prod + count)
        self.bytes_in += count
        return True

    def save(self) -> bytes:
        return bytes(self._input)

    def load(self, state: bytes) -> None:
        self._input[:] = state
