"""Chunks of a console stream between the connection that they come by and the one who reads them."""

from __future__ import annotations

import asyncio
from collections import deque

from emulator.control.views import ConsoleChunk


class ConsoleReader:
    """Chunks of one console stream on their way to its reader; their number is bounded by the credit."""

    def __init__(self) -> None:
        self._chunks: deque[ConsoleChunk] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def put(self, chunk: ConsoleChunk) -> None:
        self._chunks.append(chunk)
        self._wake.set()

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
            self._wake.set()

    async def next(self) -> ConsoleChunk | None:
        """The next chunk, None at the end. Raises what ended the stream."""
        while not self._chunks:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._chunks.popleft()
