"""`python -m tests.soak.random_keys [--minutes 10] [--seed N] [--fake]`: the whole app under seeded random keys.

The app runs headless on a real engine with guests of ours (`--fake`: on the tests' engine). Keys, typed words, command lines,
pastes, clicks, drags, resizes and now and then a killed engine come as the seed has it. Any exception in the app fails the run:
it names the seed and the last things done. An app that was left is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

from textual import events
from textual.drivers.headless_driver import HeadlessDriver
from textual.geometry import Size
from textual.keys import _character_to_key

from emulator.control.client import EngineClient, start_engine
from tests.ui.fake_engine import FakeEngine
from xenconsole.app import ConsoleApp
from xenconsole.app_protocol import Client
from xenconsole.settings import Settings

GUESTS = Path(__file__).resolve().parents[2] / "guests"
FILES = tuple(GUESTS / f"{name}.cfg" for name in ("hello", "shell", "counter"))
SIZES = ((80, 24), (120, 40), (240, 70), (60, 15), (59, 14), (100, 30), (20, 5), (99, 24), (300, 90))
LIFE_SECONDS = 60.0
"""An app that nobody left is left after so long: starting and ending are part of the soak."""

KEYS = (
    *"abcdefghijklmnopqrstuvwxyz0123456789PMTNFSRDG[]<>-/?:, ",
    *("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "enter", "escape", "tab", "shift+tab", "space", "backspace"),
    *("delete", "f1", "f5", "f10", "ctrl+p", "ctrl+c", "ctrl+l", "ctrl+u", "ctrl+right_square_bracket", "shift+pageup", "shift+pagedown"),
    *(f"alt+{digit}" for digit in range(1, 10)),
)
FAVOURITES = ("enter", "escape", "down", "up", "c", "i", "t", "space", "alt+2", "S", "R", "y", "z", "f", "w", "m", "n", "b", "v", "tab")
LINES = (
    ":list", ":pause 1", ":unpause 1", ":snapshot 2", ":snapshot 2 x", ":restore 2 x", ":destroy 3", ":rename 2 other", ":rename 1 [b]x[/b]",
    ":theme light", ":theme ansi", ":theme high-contrast", ":theme dark", ":sort cpu", ":sort name", ":filter !sh", ":filter (", ":filter",
    ":delay 0.1", ":inspect 2 trace", ":inspect 2 rings", ":vcpu-list 2", ":console 2", ":timeline 2", ":config 1", ":help", ":logs",
    ":restart-engine", ":reboot 2", ":shutdown 1", ":nonsense 'x", ":restore", ":create nowhere.cfg", ":mem-set 2 4", "help", "crash", "crash hard",
    ":devices 2", ":matrix", ":networks", ":storage", ":scheduler", ":disk-create x 1M", ":disk-clone x y", ":disk-remove y", ":capture 2",
    "reboot", "poweroff", "spin 1", "echo \x1b[31mred", "fault ud",
    *(f":create {GUESTS / name}.cfg" for name in ("hello", "shell", "rogue", "ping", "pong")),
)  # fmt: skip
PASTES = ("one\ntwo\n", "\x1b[201~out", "x" * 5000, "ünïcödé 漢字 🙂", "\x00\x07\x1b]52;c;AAAA\x07")
CONTROL = {"enter": "\r", "tab": "\t", "escape": "\x1b", "backspace": "\x7f", "ctrl+c": "\x03", "ctrl+p": "\x10", "ctrl+u": "\x15", "space": " "}
KINDS = {"key": 40, "favourite": 30, "line": 6, "click": 6, "drag": 2, "wheel": 2, "resize": 2, "paste": 0.5, "wait": 4, "garble": 0.5, "kill": 0.03}
"""What is done, and how often."""


class Soak:
    """One seeded run. `done` counts what was done by kind, `trail` holds the last things done."""

    def __init__(self, seed: int, *, fake: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.fake = fake
        self.done: Counter[str] = Counter()
        self.trail: deque[str] = deque(maxlen=60)
        self.lives = 0

    async def run(self, *, seconds: float = math.inf, steps: int = sys.maxsize) -> None:
        """Soak for so long, or so many steps; raises what the app raised."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.done.total() < steps:
            await self._life(min(end, time.monotonic() + LIFE_SECONDS), steps)
            self.lives += 1

    async def _client(self) -> Client:
        return FakeEngine() if self.fake else await start_engine()

    async def _life(self, end: float, steps: int) -> None:
        files = () if self.fake else FILES
        client = await self._client()
        settings = Settings(confirm=self.chance.choice(("always", "destructive", "never")))
        app = ConsoleApp(client, settings=settings, delay=0.1, files=files, restart=self._client)
        try:
            async with app.run_test(size=self.chance.choice(SIZES[:3])) as pilot:
                await pilot.pause(0.2)
                while time.monotonic() < end and self.done.total() < steps and app.is_running and app._exit is False:
                    await self._step(app)
        finally:
            await app.client.close()
            await client.close()

    async def _step(self, app: ConsoleApp) -> None:
        kind = self.chance.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        self.done[kind] += 1
        if kind == "key":
            await self._press(app, self.chance.choice(KEYS))
        elif kind == "favourite":
            await self._press(app, self.chance.choice(FAVOURITES))
        elif kind == "line":
            await self._line(app, self.chance.choice(LINES))
        elif kind in ("click", "drag", "wheel"):
            await self._mouse(app, kind)
        elif kind == "resize":
            size = Size(*self.chance.choice(SIZES))
            self.trail.append(f"resize {size}")
            assert isinstance(app._driver, HeadlessDriver)
            app._driver._size = size
            app.post_message(events.Resize(size, size))
            await asyncio.sleep(0)
        elif kind == "paste":
            text = self.chance.choice(PASTES)
            self.trail.append(f"paste {text[:20]!r}")
            self._send(app, events.Paste(text))
        elif kind == "wait":
            await asyncio.sleep(self.chance.uniform(0.0, 0.4))
        elif kind == "kill":
            self._kill(app)
            await asyncio.sleep(0.3)
        else:
            await self._garble(app)

    async def _press(self, app: ConsoleApp, key: str) -> None:
        self.trail.append(key)
        self._send(app, _key(key))
        await asyncio.sleep(self.chance.choice((0, 0, 0, 0.01, 0.03)))

    def _send(self, app: ConsoleApp, event: events.Event) -> None:
        """As the terminal's driver sends it."""
        if app._driver is not None:
            event.set_sender(app)
            app._driver.process_message(event)

    async def _line(self, app: ConsoleApp, line: str) -> None:
        self.trail.append(f"line {line!r}")
        for key in (*(character for character in line if character.isprintable()), "enter"):
            self._send(app, _key(key))
        await asyncio.sleep(0.02)

    async def _mouse(self, app: ConsoleApp, kind: str) -> None:
        wide, high = app.size
        x, y = self.chance.randrange(max(wide, 1)), self.chance.randrange(max(high, 1))
        self.trail.append(f"{kind} {x}, {y}")
        moves: list[tuple[type[events.MouseEvent], int, int]] = [(events.MouseDown, x, y), (events.MouseUp, x, y)]
        if kind == "drag":
            moves.insert(1, (events.MouseMove, self.chance.randrange(max(wide, 1)), y))
        elif kind == "wheel":
            moves = [(self.chance.choice((events.MouseScrollUp, events.MouseScrollDown)), x, y)]
        for event, at, row in moves * self.chance.choice((1, 1, 2, 3)):
            self._send(app, event(None, at, row, 0, 0, 1, False, False, False, at, row))
        await asyncio.sleep(0.01)

    def _kill(self, app: ConsoleApp) -> None:
        self.trail.append("kill the engine")
        if isinstance(app.client, FakeEngine):
            app.client.lose()
        elif app.overview.host.engine_pid and not app.client.lost:
            os.kill(app.overview.host.engine_pid, signal.SIGKILL)

    async def _garble(self, app: ConsoleApp) -> None:
        """Bytes of chance typed into the first guest: what comes back is drawn."""
        data = self.chance.randbytes(64)
        self.trail.append(f"garble {data[:8].hex()}…")
        if isinstance(app.client, FakeEngine):
            if 1 in app.client.domains:
                app.client.say(1, data)
        elif isinstance(app.client, EngineClient) and not app.client.lost and any(d.domid == 2 for d in app.overview.domains):
            try:
                await app.client.console_write(2, data)
            except (ConnectionError, Exception) as error:  # noqa: BLE001 - the guest may go at any time; the app is what is tested
                self.trail.append(f"not typed: {error}")


def _key(key: str) -> events.Key:
    """A key by Textual's name or as the character it types."""
    if len(key) == 1:
        return events.Key(key if key.isalnum() else _character_to_key(key), key)
    return events.Key(key, CONTROL.get(key))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.random_keys", description="Random keys on the whole app.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--fake", action="store_true", help="on the tests' engine instead of a real one")
    options = parser.parse_args(arguments)
    soak = Soak(options.seed, fake=options.fake)
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_STATE_HOME"] = folder
        os.environ["XENCONSOLE_DISKS"] = f"{folder}/disks"
        try:
            asyncio.run(soak.run(seconds=options.minutes * 60))
        except BaseException:
            print(f"failed with --seed {options.seed} in life {soak.lives}, after {dict(soak.done)}; last:", *soak.trail, sep="\n  ", file=sys.stderr)
            raise
    print(f"no exception: {soak.lives} lives of the app, {sum(soak.done.values())} steps: {dict(soak.done)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
