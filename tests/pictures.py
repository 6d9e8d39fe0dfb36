"""`python -m tests.pictures [FOLDER]`: the pictures of the documents, made of the real app on real guests.

Textual draws the screen as SVG; the guests do what they do, so that two runs differ in figures and in nothing else.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from emulator.control.client import start_engine
from emulator.control.process import EngineOptions
from xenconsole import __version__
from xenconsole.app import ConsoleApp
from xenconsole.app_protocol import Client
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.domain import DomainScreen

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ("hello", "counter", "shell", "ping", "pong")
WORK = (b"mount -t ext4 /dev/xvda /mnt; ls /mnt; (while :; do dd if=/dev/urandom of=/mnt/f bs=64k count=100; sync; "
        b"dd if=/mnt/f of=/dev/null bs=16k iflag=direct; done) 2>/dev/null >/dev/null &\r")  # fmt: skip
TABS = (("vcpus", "vcpu", "", 2), ("trace", "trace", "", 2), ("devices", "devices", "", 2), ("rings", "rings", "right", 15))
SCREENS = (("n", "networks", "", 15), ("b", "storage", "down down", 3), ("m", "matrix", "G", 4), ("v", "scheduler", "", 3))
"""Key or tab, the picture's name, the keys pressed then, the seconds it is let run."""
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


def prepare(folder: Path) -> Path:
    """A base disk with a file system in the storage pool, and a Linux with a clone of it and a network card; its cfg file."""
    kernel = Path("/vmlinuz").resolve()
    pool = folder / ".local" / "share" / "xenconsole" / "disks"
    pool.mkdir(parents=True)
    base = pool / "base.img"
    with base.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-L", "base", "-d", str(ROOT / "docs"), str(base)], check=True)
    release = kernel.name.removeprefix("vmlinuz-")
    words = ["-o", str(folder / "linux.cpio.gz"), "--modules", "xen-blkfront,xen-netfront", "--kernel", release]
    subprocess.run([sys.executable, str(ROOT / "guests" / "mkinitramfs.py"), *words], check=True)
    made = folder / "linux.cfg"
    made.write_text(
        f'name = "linux"\ntype = "pv"\nkernel = "{kernel}"\nramdisk = "linux.cpio.gz"\nmemory = 256\nvcpus = 2\nextra = "console=hvc0 quiet"\n'
        'disk = ["vdev=xvda,target=pool:web"]\nvif = ["bridge=net0"]\n'
    )
    return made


async def photograph(folder: Path, home: Path, guests: tuple[str, ...] = GUESTS) -> None:
    async def engine() -> Client:
        return await start_engine(EngineOptions(name="xenhost"), version=__version__)

    linux_cfg = prepare(home)
    client = await engine()
    for disk in ("web", "mail"):
        await client.command("disk-clone", disk="base", new=disk)
    app = ConsoleApp(client, files=(*(Path("guests") / f"{name}.cfg" for name in guests), linux_cfg), restart=engine)
    at = Photographer(app, folder)
    try:
        async with app.run_test(size=SIZE) as pilot:
            await at.until(lambda: len(app.overview.domains) > len(guests) + 1, BOOT_SECONDS)
            linux = next(d.domid for d in app.overview.domains if d.name == "linux")
            async for chunk in client.console_attach(linux, 0):
                if b"# " in chunk.data:
                    break
            await client.console_write(linux, WORK)
            await client.console_write(3, b"mem\r")
            await client.command("snapshot", domid=linux, name="booted")
            await asyncio.sleep(12)  # history lines
            await pilot.press("G")
            await asyncio.sleep(0.5)
            at.take("overview")
            for tab, name, pressed, seconds in TABS:
                app.open_domain(linux, tab)
                await at.until(lambda: isinstance(app.screen, DomainScreen), 5)
                await asyncio.sleep(1)
                await pilot.press(*pressed.split())
                await asyncio.sleep(seconds)
                at.take(name)
            for key, name, pressed, seconds in SCREENS:
                await pilot.press("1", key)
                await asyncio.sleep(2)
                await pilot.press(*pressed.split())
                await asyncio.sleep(seconds)
                at.take(name)
            await client.console_write(linux, b"uname -srm; cat /proc/interrupts; head -3 /proc/meminfo\r")
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
    home = str(Path(tempfile.gettempdir()) / "xenhost")  # nobody's own settings and themes; a device's nodes show the path of its image
    shutil.rmtree(home, ignore_errors=True)  # a run that was killed left it
    os.mkdir(home)
    try:
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XENCONSOLE_DISKS"):
            os.environ.pop(name, None)
        os.environ["HOME"] = home  # the pool is ~/.local/share/xenconsole/disks then, as everybody's
        os.chdir(ROOT)
        asyncio.run(photograph(folder, Path(home)))
    finally:
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
