"""The engine as a process: how it starts, and how it ends with its app, whatever happens to either."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emulator.control.client import EngineClient, connect, open_client, start_engine
from emulator.control.process import EngineOptions, EngineProcess
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS, soon, until

MODULE = "tests.unit.engine_with_fake"
ROOT = Path(__file__).resolve().parents[2]


async def start(trouble: str = "") -> tuple[EngineClient, EngineProcess]:
    process, end = EngineProcess.start(EngineOptions(name=trouble), module=MODULE)
    return await open_client(end, process, "test"), process


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def lost(client: EngineClient) -> str:
    return await soon(lambda: client.lost)


async def soon_connected(path: Path) -> EngineClient:
    """A socket is there before anybody listens on it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await connect(path)
        except UserError:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


async def test_it_serves_and_ends_with_its_connection() -> None:
    client, process = await start()
    assert client.engine_pid == process.pid
    assert [domain.name for domain in (await client.overview()).domains] == ["spin"]
    await client.close()
    assert not alive(process.pid)


async def test_the_terminals_interrupt_is_not_for_it() -> None:
    client, process = await start()
    await client.overview()
    os.kill(process.pid, signal.SIGINT)
    await asyncio.sleep(0.05)
    assert (await client.overview()).domains
    assert os.getsid(process.pid) == process.pid
    await client.close()


async def test_killed_it_is_told_so() -> None:
    client, process = await start()
    await client.overview()
    os.kill(process.pid, signal.SIGKILL)
    assert await lost(client) == "the engine was killed by SIGKILL"
    with pytest.raises(ConnectionError, match="SIGKILL"):
        await client.overview()
    await client.close()


async def test_crashed_its_last_words_are_told() -> None:
    client, process = await start("dies")
    with pytest.raises(ConnectionError, match="SIGABRT"):
        await client.overview()
    assert "the core is on fire" in process.tail()
    assert "\n" not in client.lost and "last log line" in client.lost
    await client.close()


async def test_told_to_end_it_says_so() -> None:
    client, process = await start()
    await client.overview()
    os.kill(process.pid, signal.SIGTERM)
    assert "told to end (SIGTERM)" in await lost(client)
    await client.close()
    assert not alive(process.pid)


async def test_quit_is_answered() -> None:
    client, process = await start()
    assert (await client.command("quit")).ok
    assert "status 0" in await lost(client)
    await client.close()
    assert not alive(process.pid)


async def test_a_host_that_cannot_start_says_why() -> None:
    client, _ = await start("broken")
    assert "unicorn is not what it should be" in await lost(client)
    await client.close()


async def test_a_host_that_does_not_stop_is_left_behind_by_nobody() -> None:
    client, process = await start("hangs")
    await client.overview()
    await client.close()
    assert not alive(process.pid)


async def test_its_log_stays_small() -> None:
    client, process = await start("babbles")
    await client.overview()
    await soon(lambda: "(cut)" not in process.tail() and os.fstat(process._log).st_size < 1 << 20)
    assert process.last_line() == "line 039999 of a log that grows and grows"
    await client.close()


def test_it_dies_with_its_parent_even_if_the_connection_lives_on() -> None:
    code = f"""
import subprocess, time
from emulator.control.process import EngineProcess
process, end = EngineProcess.start(module={MODULE!r})
holder = subprocess.Popen(["sleep", "1000"], pass_fds=[end.fileno()])
print(process.pid, holder.pid, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        engine, holder = map(int, parent.stdout.readline().split())
        time.sleep(0.2)
        assert alive(engine)
        parent.kill()
    try:
        until(lambda: not alive(engine), lambda: f"process {engine} still runs")
    finally:
        os.kill(holder, signal.SIGKILL)


async def test_it_listens_for_its_user_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    command = [sys.executable, "-m", MODULE, "--listen", str(path)]
    engine = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        await soon(path.exists)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for _ in range(2):
            client = await soon_connected(path)
            assert (await client.overview()).domains
            await client.close()
        second = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=subprocess.PIPE)
        said = (await asyncio.wait_for(second.communicate(), PATIENCE_SECONDS))[1]
        assert second.returncode == 2 and b"in use" in said and said.count(b"\n") == 1
        client = await connect(path)
        await client.command("quit")
        await client.close()
        assert await asyncio.wait_for(engine.wait(), PATIENCE_SECONDS) == 0 and not path.exists()
    finally:
        if engine.returncode is None:
            engine.kill()
            await engine.wait()


async def test_it_takes_the_place_of_one_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    engine = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, "--listen", str(path), cwd=ROOT)
    client = await soon_connected(path)
    assert (await client.command("quit")).ok
    await client.close()
    assert await asyncio.wait_for(engine.wait(), PATIENCE_SECONDS) == 0


async def test_nobody_at_a_path_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no engine answers"):
        await connect(tmp_path / "none.sock")


async def test_a_process_that_cannot_be_made_is_an_engine_that_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **named: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(ConnectionError, match="the engine cannot be started: Resource temporarily unavailable"):
        await start_engine()
