"""A session on a scripted client: gaps, endings, answers, typing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from emulator.control.views import ConsoleChunk, DomainView, View
from tests.patience import PATIENCE_SECONDS
from xenconsole.app_protocol import Client
from xenconsole.terminal.bittty_core import BitttyCore
from xenconsole.terminal.core import line_text
from xenconsole.terminal.hub import BESIDE_SECONDS, VISIBLE_SECONDS, ConsoleHub
from xenconsole.terminal.serial_line import shown
from xenconsole.terminal.session import BACKLOG_BYTES, TYPED_BYTES, ConsoleSession, size_text


class Obituary(View, frozen=True):
    domain: DomainView
    reason: str
    restarted_as: int = -1


class ScriptedClient:
    """A guest that says what the test puts into its queue (None: it ends) and takes `appetite` bytes a write."""

    def __init__(self) -> None:
        self.lost = ""
        self.said: asyncio.Queue[ConsoleChunk | None] = asyncio.Queue()
        self.typed = bytearray()
        self.appetite = 1 << 20
        self.kept: Obituary | None = None

    async def console_attach(self, domid: int, offset: int) -> AsyncIterator[ConsoleChunk]:
        while (chunk := await self.said.get()) is not None:
            yield chunk
        if self.lost:
            raise ConnectionError(self.lost)

    async def console_write(self, domid: int, data: bytes) -> int:
        taken = data[: self.appetite]
        self.typed += taken
        return len(taken)

    async def obituary(self, domid: int) -> Obituary | None:
        return self.kept


def session_on(client: ScriptedClient) -> ConsoleSession:
    return ConsoleSession(cast(Client, client), 3, core=BitttyCore(60, 6))


def chunk(offset: int, data: bytes, end: int | None = None) -> ConsoleChunk:
    return ConsoleChunk(domid=3, offset=offset, data=data, end=offset + len(data) if end is None else end)


def drain(session: ConsoleSession) -> None:
    while session.advance(1.0):
        pass


def everything(session: ConsoleSession) -> list[str]:
    core = session.core
    lines = [core.history(n) for n in range(core.history_start, core.history_end)] + [core.screen(y) for y in range(core.rows)]
    return [text for line in lines if (text := line_text(line).rstrip())]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


def test_a_cut_transcript_and_a_hole_are_marked() -> None:
    session = session_on(ScriptedClient())
    session.take(chunk(2048, b"late\r\n"))
    session.take(chunk(2054 + 100, b"later"))
    drain(session)
    assert everything(session) == [" 2.0 KiB of output not shown", "late", " 100 B of output not shown", "later"]
    assert session.lost_bytes == 2148


def test_a_flood_keeps_its_end_whole_lines_and_says_what_went() -> None:
    session = session_on(ScriptedClient())
    line = b"x" * 98 + b"\r\n"
    offset = 0
    for _ in range(20):
        session.take(chunk(offset, line * 655))
        offset += 65500
    assert session._backlog_bytes <= BACKLOG_BYTES
    drain(session)
    text = everything(session)
    assert text[0] == f" {size_text(session.lost_bytes)} of output not shown"
    assert set(text[1:]) == {"x" * 60, "x" * 38}
    assert session.lost_bytes % 100 == 0
    assert session._parsed == offset


def test_a_restored_domain_starts_anew_with_a_mark() -> None:
    session = session_on(ScriptedClient())
    session.take(chunk(0, b"one\r\n"))
    session.take(chunk(0, b"again\r\n\x1b[c"))
    drain(session)
    assert everything(session) == ["one", " the domain went back to an earlier moment", "again"]


def test_answers_only_to_what_came_while_listening() -> None:
    session = session_on(ScriptedClient())
    session.take(chunk(0, b"\x1b[c", end=6))
    session.take(chunk(3, b"\x1b[c"))
    drain(session)
    assert session._typed == b""
    session.take(chunk(6, b"\x1b[6n"))
    drain(session)
    assert session._typed == b"\x1b[1;1R"


def test_a_guest_that_never_reads_is_refused_beyond_a_bound() -> None:
    session = session_on(ScriptedClient())
    assert session.type(b"x" * TYPED_BYTES)
    assert not session.type(b"y")


async def test_typing_waits_for_a_slow_guest_and_loses_nothing() -> None:
    client = ScriptedClient()
    client.appetite = 3
    session = session_on(client)
    session.start()
    session.type(b"abcdef")
    await until(lambda: client.typed == b"abcdef")
    await session.stop()


async def test_the_ending_tells_cause_and_successor() -> None:
    client = ScriptedClient()
    client.kept = Obituary(domain=DomainView(domid=3, name="g"), reason="reboot", restarted_as=9)
    session = session_on(client)
    told: list[object] = []
    session.listen(told.append)
    session.start()
    client.said.put_nowait(None)
    await until(lambda: session.ending is not None)
    assert session.ending is not None
    assert (session.ending.reason, session.ending.successor) == ("reboot", 9)
    assert told == [None]
    assert not session.type(b"x")
    await session.stop()


async def test_a_lost_engine_ends_every_console_with_its_reason() -> None:
    client = ScriptedClient()
    session = session_on(client)
    session.start()
    client.lost = "killed by signal 9"
    client.said.put_nowait(None)
    await until(lambda: session.ending is not None)
    assert session.ending is not None
    assert "killed by signal 9" in session.ending.reason
    await session.stop()


async def test_the_hub_parses_the_visible_first_and_the_hidden_in_the_end() -> None:
    client = ScriptedClient()
    hub = ConsoleHub(cast(Client, client))
    hidden, shown = hub.session(1), hub.session(2)
    hub.show((2,))
    hidden.take(chunk(0, b"h\r\n" * 100_000))
    shown.take(chunk(0, b"s\r\n" * 1000))
    await until(lambda: shown.pending == 0)
    assert hidden.pending > 0
    shown.take(chunk(3000, b"quick"))
    await until(lambda: "quick" in everything(shown))
    await hub.close()
    assert not hub.sessions


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody types as long as the test lasts, and parsing costs the time that it computes: a machine that stalls changes neither."""
    monkeypatch.setattr("xenconsole.terminal.session.ECHO_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("xenconsole.terminal.hub.perf_counter", time.thread_time)


@pytest.mark.usefixtures("unhurried")
async def test_echoes_beside_a_flood_do_not_wait_for_the_floods_turn() -> None:
    client = ScriptedClient()
    hub = ConsoleHub(cast(Client, client))
    flood, typed = hub.session(1), hub.session(2)
    hub.show((1, 2))
    flood.take(chunk(0, b"f\r\n" * 100_000))
    resting = asyncio.create_task(hub._rest(PATIENCE_SECONDS))  # as between two turns, only longer
    hub._pump.cancel()  # type: ignore[union-attr]
    await asyncio.sleep(0)
    waiting = flood.pending
    typed.take(chunk(0, b"unasked"))
    await asyncio.sleep(0.05)
    assert typed.pending, "nobody types to it: the loop is the keys' and the repaints'"
    for number in range(3):
        typed.type(b"~")
        typed.take(chunk(7 + number, b"~"))
        await until(lambda: typed.pending == 0)
    flood.take(chunk(300_000, b"f"))
    assert not resting.done() and flood.pending == waiting + 2
    typed.type(b"~")
    many = 0
    while hub._echo.is_set() or many < 500:  # it answers without end
        typed.take(chunk(10 + many * 4000, b"y" * 4000))
        many += 1
        await asyncio.sleep(0)
        if typed.pending > 8000:
            break
    assert typed.pending > 8000 and not resting.done(), "what it hears in a rest is bounded"
    resting.cancel()
    await hub.close()


@pytest.mark.usefixtures("unhurried")
async def test_while_one_is_typed_to_the_others_are_parsed_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ScriptedClient()
    hub = ConsoleHub(cast(Client, client))
    flood, typed = hub.session(1), hub.session(2)
    given: list[float] = []

    def advance(seconds: float) -> bool:
        given.append(seconds)
        return True

    monkeypatch.setattr(flood, "advance", advance)
    hub.show((1, 2))
    flood.take(chunk(0, b"f" * 1000))
    await until(lambda: len(given) > 2)
    assert set(given) == {VISIBLE_SECONDS}
    typed.type(b"~")
    await asyncio.sleep(0.05)
    given.clear()
    await until(lambda: len(given) > 2)
    assert set(given) == {BESIDE_SECONDS} and BESIDE_SECONDS < VISIBLE_SECONDS
    await hub.close()


async def test_console_io_gets_carriage_returns_on_the_screen_alone() -> None:
    client = ScriptedClient()
    session = session_on(client)
    session.take(ConsoleChunk(3, 0, b"early\nboot\ntty\r\nraw\nstep", 24, ((0, 11),)))
    drain(session)
    assert [line_text(session.core.screen(row)).rstrip() for row in range(5)] == ["early", "boot", "tty", "raw", "   step"]
    mixed = ConsoleChunk(3, 100, b"a\nb\nc\n", 106, ((102, 104),))
    assert shown(mixed) == b"a\nb\r\nc\n"
