"""One guest with its console here, from its creation to its end: the engine started for it ends with it.

What ends a session, whichever comes first: the guest is gone and not restarted, the person leaves, --timeout, a signal, output
that nobody reads, the engine is lost. Each leaves the terminal as it was and no process behind.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

from emulator.control.client import EngineClient, EngineFault, start_engine
from emulator.control.messages import CommandResult, ObituaryView
from emulator.control.process import EngineOptions
from emulator.control.views import DomainView
from emulator.errors import UserError
from xenconsole import __version__
from xenconsole.cli.crash import crash_report, printable
from xenconsole.cli.tty import Terminal
from xenconsole.terminal.serial_line import shown

POWEROFF, OTHER, MISTAKE, CRASH, TIMEOUT = 0, 1, 2, 3, 4
ESCAPE: Final = 0x1D  # Ctrl-]
WATCH_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 1.0
BURIAL_SECONDS: Final = 60.0
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Start = Callable[[], Coroutine[Any, Any, EngineClient]]


class _End(Exception):
    """The session ends with this status, and a line that says why."""

    def __init__(self, status: int, line: str = "") -> None:
        super().__init__(line)
        self.status = status
        self.line = line


class Session:
    """`xenconsole create -c`. `start` gives the engine (another one in tests)."""

    def __init__(self, options: argparse.Namespace, *, start: Start | None = None, terminal: Terminal | None = None) -> None:
        self._options = options
        engine = EngineOptions(trace=False, scheduler=options.scheduler, xenstored=options.xenstored, balloon_policy=options.balloon_policy)
        self._start = start or (lambda: start_engine(engine, version=__version__))
        self._terminal = terminal or Terminal(raw_output=options.raw)
        self._screen = asyncio.Lock()  # held while a question is on it
        self._over: asyncio.Future[_End] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()
        self._buried: set[int] = set()  # domids told to be gone: by then a successor is known
        self._burial_told = asyncio.Event()
        self._keys: list[asyncio.Task[None]] = []
        self._name = ""
        self._domid = -1
        self._shown = 0  # bytes of the present domain's output
        self._started = asyncio.get_running_loop().time()

    async def run(self) -> int:
        """The whole session; the exit status."""
        end = _End(OTHER)
        self._signals()
        client: EngineClient | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            client = await self._until_over(self._start())
            client.on_event(self._event)
            self._result(await self._until_over(self._create(client)))
            self._terminal.enter()
            work = [self._follow(client), self._type(client), self._watch(client)]
            tasks = [asyncio.create_task(self._guarded(one, client)) for one in work]
            end = await self._within_timeout(self._over)
        except _End as reached:
            end = reached
        except ConnectionError as error:
            end = _End(OTHER, str(error))
        finally:
            for task in tasks:
                task.cancel()
            self._terminal.leave()
            if client is not None:
                await client.close()
        if end.line:
            self._terminal.tell(end.line)
        return end.status

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in force
                loop.add_signal_handler(number, self._finish, OTHER, f"xenconsole: ended by {number.name}")
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        loop.add_signal_handler(signal.SIGCONT, self._resume)

    def _suspend(self) -> None:
        """Stop as any program does, with the terminal as it was; go on in raw mode."""
        was_raw = self._terminal.is_raw
        self._terminal.leave()
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        if was_raw:
            self._terminal.enter()

    def _resume(self) -> None:
        if self._terminal.is_raw:
            self._terminal.enter()  # whoever stopped us may have left it otherwise

    def _finish(self, status: int, line: str = "") -> None:
        if not self._over.done():
            self._over.set_result(_End(status, line))

    def _event(self, kind: str, domid: int) -> None:
        if kind == "gone":
            self._buried.add(domid)
            if domid == self._domid:
                self._burial_told.set()
        if kind in ("lost", "state", "gone"):
            self._changed.set()

    async def _within_timeout(self, over: asyncio.Future[_End]) -> _End:
        seconds = self._options.timeout
        left = None if seconds is None else max(0.0, seconds - (asyncio.get_running_loop().time() - self._started))
        try:
            return await asyncio.wait_for(asyncio.shield(over), left)
        except TimeoutError:
            name = self._name or "the guest"
            raise _End(TIMEOUT, f"xenconsole: {name} still ran after {seconds:g} s and was destroyed") from None

    async def _until_over(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of some work, unless the session ends before: by a signal or the timeout."""
        task = asyncio.create_task(work)
        waiting = asyncio.create_task(self._within_timeout(self._over))
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise waiting.result()
        finally:
            for one in (task, waiting):
                one.cancel()
            await asyncio.gather(task, waiting, return_exceptions=True)

    async def _create(self, client: EngineClient) -> CommandResult:
        args: dict[str, str | int | bool] = {"file": self._options.file}
        args |= {"extra": self._options.extra} if self._options.extra else {}
        args |= {"name": self._options.name} if self._options.name else {}
        progress = _Progress(self._terminal)
        ticking = asyncio.create_task(progress.run())
        try:
            return await client.command("create", progress=progress.tell, **args)
        finally:
            ticking.cancel()
            progress.clear()

    def _result(self, result: CommandResult) -> None:
        if not result.ok:
            raise _End(MISTAKE if result.mistake else OTHER, result.error if result.mistake else f"xenconsole: {result.error}")
        self._domid = result.domid

    async def _guarded(self, work: Coroutine[Any, Any, None], client: EngineClient) -> None:
        """One part of the session: what goes wrong in it ends the session with one line."""
        try:
            await work
        except _End as end:
            self._finish(end.status, end.line)
        except ConnectionError as error:
            quiet = isinstance(error, BrokenPipeError) and not client.lost  # nobody reads our output any more
            self._finish(OTHER, "" if quiet else f"xenconsole: {client.lost or error}")
        except OSError as error:
            self._finish(OTHER, f"xenconsole: standard output: {error.strerror or error}")
        except UserError as error:
            self._finish(OTHER, f"xenconsole: {error.line()}")
        except EngineFault as fault:
            self._finish(OTHER, f"xenconsole: {fault}")

    async def _follow(self, client: EngineClient) -> None:
        """Show what the guest says, and what its successors say after a reboot."""
        while True:
            self._shown = 0
            async with aclosing(client.console_attach(self._domid, 0, hold=True)) as chunks:
                async for chunk in chunks:
                    async with self._screen:
                        if chunk.offset > self._shown:
                            self._terminal.tell(f"xenconsole: {chunk.offset - self._shown} bytes of output were lost")
                        await self._terminal.show(shown(chunk) if self._terminal.shows else chunk.data)
                        self._shown = chunk.offset + len(chunk.data)
                        self._changed.set()
            await self._burial()
            kept = await client.obituary(self._domid)
            if kept is None or kept.restarted_as < 0:
                raise self._epitaph(kept)
            if kept.reason == "crash":
                why = printable(kept.crash.reason if kept.crash else kept.domain.crash)
                self._terminal.tell(f"xenconsole: {printable(kept.domain.name)} crashed ({why}) and is restarted")
            self._domid = kept.restarted_as

    async def _burial(self) -> None:
        """Wait until the domain is told to be gone; its output may have ended a moment before."""
        if self._domid not in self._buried:
            self._burial_told = asyncio.Event()
            try:
                await asyncio.wait_for(self._burial_told.wait(), BURIAL_SECONDS)
            except TimeoutError:
                pass  # the obituary will have to do as it is

    async def _watch(self, client: EngineClient) -> None:
        """Notice an end that leaves the domain in place (on_… = preserve), and learn the guest's name."""
        while True:
            overview = await client.overview()
            for domain in overview.domains:
                if domain.domid == self._domid:
                    self._name = printable(domain.name)
                    if domain.shutdown and self._shown >= domain.console_end:
                        await self._left_in_place(client, domain)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), WATCH_SECONDS)
            except TimeoutError:
                pass
            await asyncio.sleep(0.05)  # output comes by the chunk; looking once for many will do

    async def _left_in_place(self, client: EngineClient, domain: DomainView) -> None:
        try:
            detail = await client.detail(domain.domid, ("crash", "config"))
        except UserError:
            return  # not left in place but being buried: the follower learns how it ended
        if detail.config.get(f"on_{domain.shutdown}", "preserve") == "preserve":  # else the host is about to act on it
            raise self._epitaph(ObituaryView(domain=domain, reason=domain.shutdown, crash=detail.crash))

    def _epitaph(self, kept: ObituaryView | None) -> _End:
        """How the session ends when its guest did."""
        if kept is None:
            return _End(OTHER, "xenconsole: the guest is gone")
        name, domid = printable(kept.domain.name), kept.domain.domid
        if kept.reason == "poweroff":
            return _End(POWEROFF)
        if kept.reason == "crash":
            if kept.crash is None:
                why = printable(kept.domain.crash) or "no more is known"
                return _End(CRASH, f"xenconsole: {name} (domain {domid}) crashed: {why}")
            return _End(CRASH, f"xenconsole: {crash_report(name, domid, kept.crash)}")
        said = {"reboot": "rebooted, and its cfg does not have it restarted", "destroyed": "was destroyed"}
        return _End(OTHER, f"xenconsole: {name} {said.get(kept.reason, f'ended: {kept.reason}')}")

    async def _type(self, client: EngineClient) -> None:
        """Pass on what is typed. The end of the input is not the guest's end."""
        async with aclosing(self._terminal.keys()) as keys:
            asking = False
            async for data in keys:
                rest = data
                while rest:
                    if asking:
                        answer, rest = rest[:1], rest[1:]
                        asking = await self._answered(answer, client)
                        continue
                    typed, escape, rest = rest.partition(bytes((ESCAPE,))) if self._terminal.interactive else (rest, b"", b"")
                    if typed:
                        await self._write(client, typed)
                    if escape:
                        asking = True
                        await self._ask()

    async def _ask(self) -> None:
        await self._screen.acquire()
        name = self._name or "the guest"
        self._terminal.ask(f"\n[xenconsole] Destroy {name} and leave? y/n (Ctrl-] again sends it to the guest) ")

    async def _answered(self, key: bytes, client: EngineClient) -> bool:
        """Take a key as the answer; whether the question still stands."""
        if key in b"yY":
            self._terminal.ask("\n")
            raise _End(OTHER, "")
        escape = key == bytes((ESCAPE,))
        if not escape and key not in b"nN\x1b\x03\r":
            return True
        self._terminal.ask("\n")
        self._screen.release()
        if escape:
            await self._write(client, key)
        return False

    async def _write(self, client: EngineClient, data: bytes) -> None:
        """Type to the present domain, or to its successor if it is rebooting just now."""
        while data:
            try:
                data = data[await client.console_write(self._domid, data, patience=math.inf) :]
            except UserError:
                await asyncio.sleep(0.1)  # gone: the follower finds out whether there is a successor


class _Progress:
    """What takes over a second, told on standard error when that is a terminal, and wiped away at the end."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._text = "creating the guest"
        self._shown = False

    def tell(self, text: str) -> None:
        self._text = printable(text)
        if self._shown:
            self._show()

    async def run(self) -> None:
        await asyncio.sleep(PROGRESS_SECONDS)
        if sys.stderr.isatty():
            self._show()

    def _show(self) -> None:
        self._shown = True
        self._terminal.ask(f"\r\x1b[Kxenconsole: {self._text} …")

    def clear(self) -> None:
        if self._shown:
            self._terminal.ask("\r\x1b[K")
