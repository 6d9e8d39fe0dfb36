"""The terminal or pipes that a guest's console is on: raw mode and its undoing, reading and writing that block no loop.

Reading and writing have a daemon thread each, since no other way serves terminals, pipes and plain files alike: a write that
hangs must stop neither signals nor the exit.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import termios
import threading
import tty
from collections.abc import AsyncGenerator
from typing import Any

from xenconsole.terminal.filter import TerminalFilter

READ_BYTES = 4096


class Terminal:
    """Standard input and output of a console session. `raw_output` lets a terminal have the guest's bytes unfiltered."""

    def __init__(self, *, raw_output: bool = False, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self.interactive = os.isatty(stdin)
        """Keys come from a person: raw mode, and Ctrl-] leaves."""
        self.shows = os.isatty(stdout)
        self._filter = TerminalFilter() if self.shows and not raw_output else None
        self._filter_left = TerminalFilter() if self.shows and raw_output else None  # follows the modes to undo them
        self._saved: list[Any] | None = None
        self.is_raw = False
        self._stderr = stderr
        self._ask_fd = next((fd for fd in (stderr, stdout, stdin) if os.isatty(fd)), stderr)
        self._writer = _Writer(stdout)

    def enter(self) -> None:
        """Raw mode, if keys come from a person; again after a stop. Undone by `leave`, at the interpreter's end at the latest."""
        if not self.interactive:
            return
        if self._saved is None:
            self._saved = termios.tcgetattr(self._stdin)
            atexit.register(self.leave)
        tty.setraw(self._stdin, termios.TCSADRAIN)
        self.is_raw = True

    def leave(self) -> None:
        """The terminal as it was: guest's modes undone, line mode back. May be called at any time, any number of times."""
        undo = b"".join(side.finish() for side in (self._filter, self._filter_left) if side is not None)
        if undo:
            try:
                os.write(self._stdout, undo)
            except OSError:
                pass  # hung up: there is no terminal left to mend
        if self.is_raw and self._saved is not None:
            self.is_raw = False
            try:
                termios.tcsetattr(self._stdin, termios.TCSANOW, self._saved)  # draining could wait for ever
            except termios.error:
                pass  # the same

    async def show(self, data: bytes) -> None:
        """Write what the guest said and wait until it is out. Raises OSError, BrokenPipeError among them."""
        if self._filter is not None:
            data = self._filter.feed(data)
        elif self._filter_left is not None:
            self._filter_left.feed(data)
        if data:
            await self._writer.write(data)

    def tell(self, text: str) -> None:
        """Words of ours on standard error, ended by one newline."""
        self._say(self._stderr, text.rstrip("\n") + "\n")

    def ask(self, text: str) -> None:
        """Words for the person at the keyboard, as they are: on the terminal, wherever standard error goes."""
        self._say(self._ask_fd, text)

    def _say(self, fd: int, text: str) -> None:
        data = text.replace("\n", "\r\n") if self.is_raw and os.isatty(fd) else text
        try:
            os.write(fd, data.encode("utf-8", "replace"))
        except OSError:
            pass  # nobody listens

    async def keys(self) -> AsyncGenerator[bytes, None]:
        """What is typed or piped in, as it comes; ends with the input. No more is read than is taken."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        wanted = threading.Semaphore(0)

        def read() -> None:
            while True:
                wanted.acquire()
                try:
                    data = os.read(self._stdin, READ_BYTES)
                except OSError:
                    data = b""  # hung up, or closed from the start
                try:
                    loop.call_soon_threadsafe(arrived.put_nowait, data)
                except RuntimeError:
                    return  # the session is over
                if not data:
                    return

        threading.Thread(target=read, daemon=True, name="keys").start()
        while True:
            wanted.release()
            data = await arrived.get()
            if not data:
                return
            yield data


class _Writer:
    """Writes in a thread of its own, one piece at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._work: tuple[bytes, asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._ready = threading.Semaphore(0)
        self._started = False

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._work = (data, loop, done)
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, daemon=True, name="output").start()
        self._ready.release()
        await done

    def _run(self) -> None:
        while True:
            self._ready.acquire()
            assert self._work is not None
            data, loop, done = self._work
            error: OSError | None = None
            try:
                self._all(data)
            except OSError as failed:
                error = failed
            try:
                loop.call_soon_threadsafe(_settle, done, error)
            except RuntimeError:
                return  # the session is over

    def _all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                select.select([], [self._fd], [])


def _settle(done: asyncio.Future[None], error: OSError | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
