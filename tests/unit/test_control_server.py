"""Server and client together over a socketpair, on a host of scripted guests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from emulator.control.client import STREAM_WINDOW, EngineClient
from emulator.control.server import Server
from emulator.control.views import ConsoleChunk
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS, soon
from tests.unit.fake_host import FLOOD, KEPT, FakeHost


@asynccontextmanager
async def engine() -> AsyncIterator[tuple[FakeHost, EngineClient]]:
    host = FakeHost()

    async def ready() -> FakeHost:
        return host

    server = Server(ready())
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(server.serve(*await asyncio.open_unix_connection(sock=theirs)))
    client = EngineClient(*await asyncio.open_unix_connection(sock=ours))
    await client.greeted()
    try:
        yield host, client
    finally:
        host.blocked.set()
        await client.close()
        await asyncio.wait_for(serving, PATIENCE_SECONDS)
        await server.close()
        host.stop()


async def collect(client: EngineClient, domid: int, *, hold: bool = False, nap: float = 0.0) -> list[ConsoleChunk]:
    """All chunks of a console; `nap`: seconds that the reader takes after its first."""
    chunks: list[ConsoleChunk] = []
    async for chunk in client.console_attach(domid, 0, hold=hold):
        if not chunks:
            await asyncio.sleep(nap)
        chunks.append(chunk)
    return chunks


async def test_views_come_over_as_they_are() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        overview = await client.overview(5)
        assert overview == host.overview(5)
        assert (await client.detail(domid, ("vcpus",))).domain.name == "spin"
        assert (await client.snapshots(domid))[0].name == "one"
        with pytest.raises(UserError, match="no domain 99"):
            await client.detail(99, ())
        with pytest.raises(UserError, match="no part"):
            await client.detail(domid, ("bones",))
        assert (await client.frame(domid, 5)).mfn == 12
        with pytest.raises(UserError, match="no domain 99"):
            await client.frame(99, 5)
        networks = await client.networks()
        assert networks.networks[0].name == "net0" and networks.vifs[0].name == f"vif{domid}.0"
        tail = await client.packets("net0", since=4)
        assert (tail.seq, tail.packets[0].text) == (5, "ARP, Request")
        with pytest.raises(UserError, match="no network"):
            await client.packets("nowhere")


async def test_the_storage_pool_comes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENCONSOLE_DISKS", str(tmp_path))
    async with engine() as (host, client):
        assert (await client.command("disk-create", disk="root", size="1M")).ok
        assert (await client.command("disk-create", disk="root", size="1M")).error == f"{tmp_path}: a disk called root exists"
        told, pool = await client.storage.pool(), host.storage.pool()
        assert told.free > 0 and replace(told, free=pool.free) == pool, "others use the host's disk, too"
        assert (await client.storage.block_map("root", 8)).kinds == bytes(8)
        assert (await client.storage.read("root", 100, 9)).data == bytes(9)
        with pytest.raises(UserError, match="neither a partition table"):
            await client.storage.directory("root")
        with pytest.raises(UserError, match="no disk 'none'"):
            await client.storage.read("none", 0, 1)


async def test_commands_answer_in_words() -> None:
    async with engine() as (host, client):
        text = 'kernel = "/dev/null"\nname = "spin"\n'
        made = await client.command("create", text=text)
        assert made.ok and made.domid == 1, made
        assert (await client.command("create", text=text)).error == "a domain spin exists already"
        named = await client.command("create", text='kernel = "/dev/null"\nname = "spin"', name="spin-2", extra="memory = 64")
        assert named.ok and host.guests[named.domid].name == "spin-2"
        assert (await client.command("pause", domid=1)).ok
        assert (await client.command("reboot", domid=1)).ok and host.calls == ["pause", "shutdown reboot"]
        assert (await client.command("rename", domid=1, new="other")).ok and host.guests[1].name == "other"
        taken = await client.command("snapshot", domid=1, name="before")
        assert taken.snapshot is not None and taken.snapshot.name == "before"
        assert (await client.command("destroy", domid=1)).ok
        buried = await client.obituary(1)
        assert buried is not None and buried.reason == "destroyed"
        assert await client.obituary(2) is None


@pytest.mark.parametrize(
    ("verb", "args", "said"),
    [
        ("explode", {}, "no command 'explode'"),
        ("pause", {}, "pause needs domid="),
        ("pause", {"domid": "1"}, "domid should be a int"),
        ("pause", {"domid": 1, "hard": True}, "takes no argument 'hard'"),
        ("pause", {"domid": 9}, "no domain 9"),
        ("create", {}, "needs file= or text="),
        ("create", {"file": "/nonexistent/x.cfg"}, "/nonexistent/x.cfg"),
        ("create", {"text": 'name = "x"\nkernel = [\n', "file": "a.cfg"}, "a.cfg:"),
        ("create", {"text": 'kernel = "/dev/null"\nname = "x"', "extra": "memory = x y"}, "command line: memory = x y"),
        ("create", {"text": 'kernel = "/dev/null"\nname = "x"', "name": "a\nb"}, "will not do as a name"),
    ],
)
async def test_a_mistake_is_one_line_and_marked_as_the_users(verb: str, args: dict[str, str | int | bool], said: str) -> None:
    async with engine() as (_, client):
        result = await client.command(verb, **args)  # type: ignore[arg-type]
        assert not result.ok and result.mistake
        assert said in result.error and "\n" not in result.error


async def test_a_fault_of_ours_is_told_and_ends_nothing() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        result = await client.command("restore", domid=domid, name="x")
        assert not result.ok and not result.mistake and "a fault of ours" in result.error
        assert (await client.overview()).domains


async def test_console_is_typed_to_and_read() -> None:
    async with engine() as (host, client):
        domid = host.add("echo")
        text = b"a long text " * 100
        assert await client.console_write(domid, text) == len(text)
        assert bytes(host.guests[domid].typed) == text
        chunk = await client.console_read(domid, 2, 10)
        assert (chunk.offset, chunk.data) == (2, text[2:12])
        with pytest.raises(UserError):
            await client.console_write(77, b"x")


async def test_texts_of_two_writers_do_not_mix() -> None:
    async with engine() as (host, client):
        domid = host.add("echo")
        await asyncio.gather(*(client.console_write(domid, letter * 300) for letter in (b"a", b"b", b"c")))
        assert bytes(host.guests[domid].typed) == b"a" * 300 + b"b" * 300 + b"c" * 300


async def test_typing_to_a_guest_that_reads_nothing_gives_up() -> None:
    async with engine() as (host, client):
        domid = host.add("mute")
        assert await client.console_write(domid, b"hello?", patience=0.05) == 0


async def test_an_attached_console_ends_with_its_domain_and_loses_nothing() -> None:
    async with engine() as (host, client):
        domid = host.add("echo")
        reading = asyncio.create_task(collect(client, domid))
        await client.console_write(domid, b"some words, then poweroff")
        chunks = await asyncio.wait_for(reading, PATIENCE_SECONDS)
        assert b"".join(chunk.data for chunk in chunks) == b"some words, then poweroff"
        again = await collect(client, domid)  # after its end, too
        assert b"".join(chunk.data for chunk in again) == b"some words, then poweroff"


async def test_attaching_to_nothing_is_a_mistake() -> None:
    async with engine() as (_, client):
        with pytest.raises(UserError, match="no domain 5"):
            await collect(client, 5)


async def test_a_fault_of_ours_ends_a_console_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine() as (host, client):
        domid = host.add("spin")

        def fails(*given: object) -> None:
            raise RuntimeError("no such luck")

        monkeypatch.setattr(host, "console_read", fails)
        with pytest.raises(UserError, match="engine fault: RuntimeError: no such luck"):
            await asyncio.wait_for(collect(client, domid), PATIENCE_SECONDS)


async def test_a_held_flood_arrives_whole_at_a_slow_reader() -> None:
    async with engine() as (host, client):
        chunks = await asyncio.wait_for(collect(client, host.add("held"), hold=True, nap=0.6), PATIENCE_SECONDS)
        assert b"".join(chunk.data for chunk in chunks) == FLOOD
        assert "pause" in host.calls and len(FLOOD) > 3 * KEPT


async def test_a_flood_fills_nothing_and_starves_nobody() -> None:
    async with engine() as (host, client):
        stream = client.console_attach(host.add("flood"), 0)
        first = await anext(stream)
        for _ in range(100):
            await client.overview()
        under_way = sum(len(chunk.data) for waiting in client._streams.values() for chunk in waiting._chunks)
        assert under_way <= STREAM_WINDOW
        assert first.offset == 0
        await stream.aclose()


async def test_a_slow_reader_without_hold_sees_a_gap() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        stream = client.console_attach(domid, 0)
        host.say(domid, b"first")
        assert (await anext(stream)).data == b"first"
        for _ in range(2):
            host.say(domid, bytes(KEPT))
        offsets = []
        async for chunk in stream:
            offsets.append(chunk.offset)
            if chunk.offset + len(chunk.data) == chunk.end and chunk.end > 2 * KEPT:
                break
        assert max(b - a for a, b in pairwise(offsets)) > 0 and offsets[0] >= 5
        await stream.aclose()


async def test_a_blocked_domain_holds_up_nobody_else() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        host.blocked.clear()
        stuck = [asyncio.create_task(client.detail(domid, ())) for _ in range(20)]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(client.overview(), PATIENCE_SECONDS)
        assert (await asyncio.wait_for(client.console_read(domid, 0), PATIENCE_SECONDS)).data == b""
        assert not any(task.done() for task in stuck)
        host.blocked.set()
        assert all(detail.domain.domid == domid for detail in await asyncio.gather(*stuck))


async def test_more_requests_than_the_protocol_allows_take_turns() -> None:
    async with engine() as (_, client):
        assert len(await asyncio.gather(*(client.overview() for _ in range(300)))) == 300


async def test_a_cancelled_request_leaves_the_connection_whole() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        host.blocked.clear()
        stuck = [asyncio.create_task(client.detail(domid, ())) for _ in range(30)]
        await asyncio.sleep(0.02)
        for task in stuck:
            task.cancel()
        host.blocked.set()
        await asyncio.gather(*(client.overview() for _ in range(100)))


async def test_notices_are_pushed_once_however_many_there_were() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        await client.overview()
        seen: list[tuple[str, int]] = []
        client.on_event(lambda kind, number: seen.append((kind, number)))
        for _ in range(5000):
            host.tell("console", domid)
        host.tell("state", domid)
        host.tell("log", -1)
        await soon(lambda: ("state", domid) in seen and ("log", -1) in seen)
        assert 1 <= seen.count(("console", domid)) < 100


async def test_progress_of_a_command_is_told() -> None:
    async with engine() as (_, client):
        told: list[str] = []
        await client.command("create", text='kernel = "/dev/null"\nname = "spin"', progress=told.append)
        await soon(lambda: told)
        assert told == ["loading"]


async def test_a_peer_that_breaks_the_rules_is_told_and_dropped() -> None:
    host = FakeHost()

    async def ready() -> FakeHost:
        return host

    server = Server(ready())
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(server.serve(*await asyncio.open_unix_connection(sock=theirs)))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert b"goodbye" in await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    writer.close()
    await asyncio.wait_for(serving, PATIENCE_SECONDS)


async def test_losing_the_engine_fails_every_wait_and_says_why() -> None:
    async with engine() as (host, client):
        domid = host.add("spin")
        host.blocked.clear()
        asking = asyncio.create_task(client.detail(domid, ()))
        reading = asyncio.create_task(collect(client, domid))
        seen: list[str] = []
        client.on_event(lambda kind, _: seen.append(kind))
        await asyncio.sleep(0.05)
        client._reader.feed_eof()
        for task in (asking, reading):
            with pytest.raises(ConnectionError, match="closed the connection"):
                await asyncio.wait_for(task, PATIENCE_SECONDS)
        assert client.lost and "lost" in seen
        with pytest.raises(ConnectionError):
            await client.overview()
        assert client.lost in (await client.command("pause", domid=domid)).error


async def test_an_error_of_the_hosts_files_is_answered_and_ends_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine() as (host, client):
        domid = host.add("spin")

        def deny(*_arguments: object) -> str:
            raise PermissionError(13, "Permission denied", "/root/\udcff")

        monkeypatch.setattr(host, "capture", deny)
        result = await asyncio.wait_for(client.command("capture", domid=domid, file="/root/x"), PATIENCE_SECONDS)
        assert not result.ok and "Permission denied" in result.error
        assert (await client.overview(0)).domains
