"""`python -m tests.pictures [FOLDER]`: the pictures of the documents, made of the real app on real guests.

Textual draws the screen as SVG; the guests do what they do, so that two runs differ in figures and in nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from emulator.control.client import start_engine
from xenconsole import __version__
from xenconsole.app import ConsoleApp
from xenconsole.app_protocol import Client
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.domain import DomainScreen

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ("hello", "counter", "shell", "linux")
SIZE = (120, 34)
BOOT_SECONDS = 90.0


class Photographer:
    """Takes pictures of one app into a folder."""

    def __init__(self, app: ConsoleApp, folder: Path) -> None:
        self._app = app
        self._folder = folder

    def take(self, name: str) -> None:
        svg = self._app.export_screenshot(title="xenconsole", simplify=True)
        (self._folder / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
        print(self._folder / f"{name}.svg")

    async def until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait for something to be shown. TimeoutError."""
        async with asyncio.timeout(seconds):
            while not ready():  # noqa: ASYNC110 - whatever may be waited for
                await asyncio.sleep(0.1)


async def photograph(folder: Path, guests: tuple[str, ...] = GUESTS) -> None:
    async def engine() -> Client:
        return await start_engine(name="xenhost", version=__version__)

    client = await engine()
    app = ConsoleApp(client, files=tuple(Path("guests") / f"{name}.cfg" for name in guests), restart=engine)
    at = Photographer(app, folder)
    try:
        async with app.run_test(size=SIZE) as pilot:
            await at.until(lambda: len(app.overview.domains) > len(guests), BOOT_SECONDS)
            linux = next((d.domid for d in app.overview.domains if d.name == "linux"), 3)
            chunks = 0
            async for chunk in client.console_attach(linux, 0):
                chunks += 1
                if b"# " in chunk.data or b"xen> " in chunk.data:
                    break
            await client.console_write(linux, b"uname -srm; cat /proc/interrupts; head -3 /proc/meminfo\r")
            await client.console_write(3, b"mem\r")
            await client.command("snapshot", domid=linux, name="booted")
            await asyncio.sleep(12)  # history lines
            await pilot.press("j", "j", "j", "j")
            await asyncio.sleep(0.5)
            at.take("overview")
            for tab, name in (("vcpus", "vcpu"), ("rings", "rings"), ("trace", "trace")):
                app.open_domain(linux, tab)
                await at.until(lambda: isinstance(app.screen, DomainScreen), 5)
                await asyncio.sleep(2)
                at.take(name)
            app.navigator.open_tiles((linux, 3))
            await at.until(lambda: isinstance(app.screen, ConsoleScreen), 5)
            await asyncio.sleep(1.5)
            at.take("consoles")
    finally:
        await app.client.close()


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else ROOT / "docs" / "pictures"
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:  # nobody's own settings and themes
        os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_STATE_HOME"] = home
        os.chdir(ROOT)
        asyncio.run(photograph(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
