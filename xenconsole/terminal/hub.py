"""All consoles of the app, and who of them gets how much time.

The guests on the screen are parsed at full rate, in turns short enough that keys and repaints come between; all others
share a small slice, so that a flood on one of them costs nobody anything. A guest costs parsing only once its console was
opened: what it did unseen before is in the engine's transcript, and marks of bell and activity come from the overview.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from time import perf_counter

from xenconsole.app_protocol import Client
from xenconsole.terminal.session import ConsoleSession

VISIBLE_SECONDS = 0.008
"""Parsing for the visible guests together, per turn."""
HIDDEN_SECONDS = 0.002
"""Parsing for all others together, per turn."""
TURN_SECONDS = 1 / 60
BESIDE_SECONDS = 0.003
BESIDE_TURN_SECONDS = 1 / 30
"""While somebody types to one visible guest the others are parsed and drawn in smaller pieces and less often: each piece is time that
the key and its echo would wait."""
ECHO_BYTES = 4096
"""A guest that is typed to and has no more than this to parse is heard at once: it may be the echo."""
HIDDEN_TURN_SECONDS = 0.05
KEPT_ENDED = 8
"""Sessions of ended domains that are kept for reading."""


class ConsoleHub:
    """The sessions of one app on one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sessions: dict[int, ConsoleSession] = {}
        self._visible: tuple[int, ...] = ()
        self._turn = 0
        self._work = asyncio.Event()
        self._echo = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def session(self, domid: int) -> ConsoleSession:
        """The domain's session, started when there is none."""
        found = self.sessions.get(domid)
        if found is None:
            found = self.sessions[domid] = ConsoleSession(self.client, domid)
            found.start(partial(self._spoke, domid))
            if self._pump is None:
                self._pump = asyncio.create_task(self._run(), name="consoles")
            self._forget()
        return found

    def show(self, domids: Iterable[int]) -> None:
        """These are on the screen now, no others."""
        self._visible = tuple(dict.fromkeys(domids))
        self._work.set()

    @property
    def visible(self) -> tuple[int, ...]:
        return self._visible

    def _spoke(self, domid: int) -> None:
        """A session has something to parse, or ended."""
        self._work.set()
        session = self.sessions.get(domid)
        if session is not None and domid in self._visible and session.typed_to and session.pending <= ECHO_BYTES:
            self._echo.set()

    def _forget(self) -> None:
        ended = [d for d, s in self.sessions.items() if s.ending is not None and d not in self._visible]
        for domid in ended[:-KEPT_ENDED]:
            del self.sessions[domid]

    # time

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while True:
                typed = tuple(d for d in self._visible if d in self.sessions and self.sessions[d].typed_to)
                beside = tuple(d for d in self._visible if d not in typed) if typed else ()
                turn, spent = (BESIDE_TURN_SECONDS, BESIDE_SECONDS) if beside else (TURN_SECONDS, VISIBLE_SECONDS)
                visible = self._advance(typed or self._visible, VISIBLE_SECONDS)
                visible = self._advance(beside, BESIDE_SECONDS) or visible
                hidden = self._advance(self._hidden(), HIDDEN_SECONDS)
                if visible:
                    await self._rest(turn - spent)
                elif hidden:
                    await self._pause(HIDDEN_TURN_SECONDS)
                else:
                    break

    async def _rest(self, seconds: float) -> None:
        """Leave the loop to keys and repaints, and hear in it those that are typed to, beside those that flood; for `VISIBLE_SECONDS`
        of parsing in all, so that the loop stays theirs."""
        end, left = perf_counter() + seconds, VISIBLE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while left > 0:
                    self._echo.clear()
                    await self._echo.wait()
                    began = perf_counter()
                    echoing = (d for d in self._visible if d in self.sessions and self.sessions[d].typed_to)
                    self._advance(tuple(d for d in echoing if self.sessions[d].pending <= ECHO_BYTES), HIDDEN_SECONDS)
                    left -= perf_counter() - began
        await asyncio.sleep(max(0.0, end - perf_counter()))

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless a guest on the screen speaks."""
        try:
            async with asyncio.timeout(seconds):
                while not any(self.sessions[d].pending for d in self._visible if d in self.sessions):
                    self._work.clear()
                    await self._work.wait()
        except TimeoutError:
            self._work.set()

    def _hidden(self) -> tuple[int, ...]:
        """The others that have something to parse, each time another one first."""
        waiting = [d for d, s in self.sessions.items() if d not in self._visible and s.pending]
        if not waiting:
            return ()
        self._turn += 1
        first = self._turn % len(waiting)
        return (*waiting[first:], *waiting[:first])

    def _advance(self, domids: tuple[int, ...], seconds: float) -> bool:
        """Share `seconds` among those of `domids` that have work; whether any is left."""
        busy = [s for d in domids if (s := self.sessions.get(d)) is not None and s.pending]
        end = perf_counter() + seconds
        for session in busy:
            session.advance(seconds / len(busy))
            if perf_counter() >= end:
                break
        return any(session.pending for session in busy)

    async def close(self) -> None:
        """End all streams."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        await asyncio.gather(*(session.stop() for session in self.sessions.values()))
        self.sessions.clear()
