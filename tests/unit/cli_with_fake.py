"""The command line on a host of scripted guests, as a program: `python -m tests.unit.cli_with_fake create -c …`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

from emulator.control.client import EngineClient
from emulator.control.process import EngineOptions
from emulator.control.server import Server
from emulator.control.views import DomainDetail, Overview
from emulator.errors import UserError
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


class Burying(FakeHost):
    """A guest that has ended is still listed when it is looked at, and gone when it is asked; only then is that told."""

    def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        self.loop.call_soon_threadsafe(self.loop.call_later, 0.2, self.end, domid, "poweroff")
        raise UserError(f"domain {domid} does not exist")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()


KINDS: dict[str, type[FakeHost]] = {"FAKE_LEAP": Leaping, "FAKE_BURIAL": Burying}


async def start_fake(_options: EngineOptions | None = None, *, version: str = "") -> EngineClient:
    kind = next((kind for name, kind in KINDS.items() if name in os.environ), FakeHost)
    host = kind()

    async def ready() -> FakeHost:
        await asyncio.sleep(float(os.environ.get("FAKE_DELAY", "0")))
        return host

    server = Server(ready())
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(server.serve(*await asyncio.open_unix_connection(sock=theirs)))
    client = EngineClient(*await asyncio.open_unix_connection(sock=ours), None, version)
    await client.greeted()
    client.server = serving  # type: ignore[attr-defined]  # kept alive with it
    if lose := float(os.environ.get("FAKE_LOSE", "0")):
        asyncio.get_running_loop().call_later(lose, serving.cancel)
    return client


if __name__ == "__main__":
    session.start_engine = start_fake  # type: ignore[assignment, attr-defined]
    sys.exit(main())
