"""The command line on a host of scripted guests, as a program: `python -m tests.unit.cli_with_fake create -c …`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path

from emulator.control.client import EngineClient
from emulator.control.process import EngineOptions
from emulator.control.server import Server
from emulator.control.views import DomainDetail, Overview
from emulator.errors import UserError
from tests.patience import soon
from tests.unit.fake_host import FakeHost
from xenconsole.cli import main, session


class Leaping(FakeHost):
    """An hour passes once it has been looked at a second time: by then the session knows its guest's name, however slow the machine is."""

    looks = 0

    def overview(self, since_log: int = 0) -> Overview:
        self.looks += 1
        if self.looks == 2:
            self.loop.call_soon_threadsafe(self._leap)
        return super().overview(since_log)

    def _leap(self) -> None:
        self.loop.time = lambda: time.monotonic() + 3600  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()


class Losing(FakeHost):
    """The connection breaks when its guest is told to lose it."""

    serving: asyncio.Task[None]

    def console_write(self, domid: int, data: bytes) -> int:
        if b"lose" in data:
            self.serving.get_loop().call_soon_threadsafe(self.serving.cancel)
        return super().console_write(domid, data)


class Burying(FakeHost):
    """A guest that has ended is still listed when it is looked at, and gone when it is asked; only then is that told."""

    def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        self.loop.call_soon_threadsafe(self.loop.call_later, 0.2, self.end, domid, "poweroff")
        raise UserError(f"domain {domid} does not exist")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()


KINDS: dict[str, type[FakeHost]] = {"FAKE_LEAP": Leaping, "FAKE_BURIAL": Burying, "FAKE_LOSE": Losing}


async def start_fake(_options: EngineOptions | None = None, *, version: str = "") -> EngineClient:
    kind = next((kind for name, kind in KINDS.items() if name in os.environ), FakeHost)
    host = kind()

    async def ready() -> FakeHost:
        if gate := os.environ.get("FAKE_GATE"):  # a file: it is not ready before that is there
            await soon(Path(gate).exists)
        return host

    server = Server(ready())
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(server.serve(*await asyncio.open_unix_connection(sock=theirs)))
    client = EngineClient(*await asyncio.open_unix_connection(sock=ours), None, version)
    await client.greeted()
    client.server = serving  # type: ignore[attr-defined]  # kept alive with it
    if isinstance(host, Losing):
        host.serving = serving
    return client


if __name__ == "__main__":
    session.start_engine = start_fake  # type: ignore[assignment, attr-defined]
    sys.exit(main())
