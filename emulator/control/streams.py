"""A console stream: one domain's output to one reader, at the reader's pace.

The transcript lies in the host; the stream only holds an offset into it and sends what the reader has credit for. So a
flooding guest fills nothing here: a reader that falls behind finds a gap, or, with `hold`, the domain waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from emulator.control.hostapi import HostApi
from emulator.control.messages import Attach, FromEngine, StreamData, StreamEnd
from emulator.control.protocol import EngineSide
from emulator.errors import UserError, sendable

CHUNK_BYTES: Final = 1 << 15
HOLD_BYTES: Final = 1 << 17
"""With `hold`, a domain this far ahead of its reader is paused, and goes on when the reader has come within half of it."""
GATHER_SECONDS: Final = 0.002
"""Pause after a chunk, so that a guest's single bytes travel together; the first after a silence goes at once."""

log = logging.getLogger(__name__)

Run = Callable[[Callable[[int], None], int], Awaitable[None]]
"""Runs a blocking call with a domid in a thread."""


class ConsoleStream:
    """The engine's end of one attached console."""

    def __init__(self, side: EngineSide, request: Attach, send: Callable[[FromEngine], Awaitable[None]]) -> None:
        self._side = side
        self._request = request
        self._send = send
        self._awake = asyncio.Event()
        self._gone = False
        self._detached = False
        self._held = False

    @property
    def domid(self) -> int:
        return self._request.domid

    def wake(self, *, gone: bool = False) -> None:
        """Something may have changed: output, credit, or the domain is gone."""
        self._gone = self._gone or gone
        self._awake.set()

    def detach(self) -> None:
        self._detached = True
        self._awake.set()

    async def run(self, host: HostApi, run: Run) -> None:
        """Send until the reader detaches or the domain is gone and all it said was sent."""
        error = ""
        try:
            await self._pump(host, run)
        except UserError as mistake:
            error = mistake.line()
        except ConnectionError:
            raise  # the reader is gone: nobody is left to tell
        except Exception as fault:
            log.exception("the console of domain %d", self.domid)
            error = f"engine fault: {type(fault).__name__}: {sendable(str(fault))}"
        finally:
            if self._held:
                await self._hold(False, host, run)
        if not self._detached:
            await self._send(StreamEnd(stream=self._request.stream, error=error))

    async def _pump(self, host: HostApi, run: Run) -> None:
        number, domid, offset = self._request.stream, self._request.domid, self._request.offset
        self._gone = host.obituary(domid) is not None
        while not self._detached:
            self._awake.clear()
            gone = self._gone  # looked at before reading: what it said last is there by then
            state = self._side.streams.get(number)
            if state is None:
                return
            chunk = host.console_read(domid, offset, min(state.credit, CHUNK_BYTES))
            if chunk.data:
                offset = chunk.offset + len(chunk.data)
                await self._send(StreamData(stream=number, chunk=chunk))
            if self._request.hold and not gone:
                behind = chunk.end - offset
                if not self._held and behind > HOLD_BYTES:
                    await self._hold(True, host, run)
                elif self._held and behind <= HOLD_BYTES // 2:
                    await self._hold(False, host, run)
            if chunk.data:
                await asyncio.sleep(GATHER_SECONDS if chunk.end == offset else 0)
            elif gone and offset >= chunk.end:
                return
            else:
                await self._awake.wait()

    async def _hold(self, hold: bool, host: HostApi, run: Run) -> None:
        self._held = hold
        try:
            await run(host.pause if hold else host.unpause, self.domid)
        except UserError:
            self._gone = True  # no such domain any more, which is all that a hold could fail of
