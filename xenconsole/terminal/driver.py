"""The terminal driver of the app, with Alt told apart.

Textual's parser takes ESC 1 for "¡" (a Mac's Option key), ESC f for Ctrl+Right, and drops the Alt of ESC Ctrl+A: right for
forms, wrong for a console that owes the guest every key and Alt+1…9 to its user. Here ESC and one character, or one control
character, is Alt with that key. Terminals that speak the Kitty protocol never get this far.
"""

from __future__ import annotations

import os
import queue
import select
import selectors
from codecs import getincrementaldecoder
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from textual import events
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from textual.app import App

_INTRODUCERS = frozenset("[O]P_^X\x1b")
"""What may follow ESC as the start of a longer sequence."""
READ_BYTES = 4096
IDLE_SECONDS = 0.1
PATIENCE_SECONDS = 0.5
"""For how long the app waits for a terminal that has no room left."""
PENDING_SECONDS = 0.02
"""How soon a lone ESC is looked at again: it is the Escape key when nothing followed it within Textual's escape delay."""


class AltKeysParser(XTermParser):
    """Textual's parser, Alt kept."""

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        if len(sequence) == 2 and sequence[0] == "\x1b" and sequence[1] not in _INTRODUCERS:
            yield from self._alt(sequence[1])
        elif alt and len(sequence) == 1:
            yield from self._alt(sequence)
        else:
            yield from super()._sequence_to_key_events(sequence, alt)

    def _alt(self, character: str) -> Iterable[events.Key]:
        for event in super()._sequence_to_key_events(character):
            key = event.key
            if character.isupper():
                key = f"shift+{character.lower()}"
            yield events.Key(f"alt+{key}", event.character)


class _Output:
    """The terminal as a file to write to. Once it is gone what is written is dropped: Textual's writer thread would else die
    of it, and the app wait for ever for a thread that takes nothing more.

    Written past Python's buffer: a thread that a terminal keeps waiting in there holds its lock, and the interpreter cannot end."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._gone = False

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, text: str) -> int:
        data = memoryview(text.encode("utf-8", "replace"))
        while data and not self._gone:
            try:
                data = data[os.write(self._file.fileno(), data) :]
            except BlockingIOError:  # somebody else made it so; it is shared
                select.select((), (self._file.fileno(),), (), IDLE_SECONDS)
            except OSError:
                self._gone = True
        return len(text)

    def flush(self) -> None:
        return


class AltKeysDriver(LinuxDriver):
    """Textual's Linux driver reading through AltKeysParser (the input loop offers no place to put a parser in), and outliving
    its terminal: one that is gone, and one that stands open and takes nothing."""

    def __init__(self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._stalled = False
        if self._file is not None:
            self._file = _Output(self._file)  # type: ignore[assignment]  # all of it that Textual uses

    def write(self, data: str) -> None:
        """Hand over to the writer thread. A terminal that takes nothing for a while would hold up the app for ever, signals and all:
        what it is sent then is dropped, and drawn whole when it reads again."""
        assert self._writer_thread is not None, "Driver must be in application mode"
        waiting = self._writer_thread._queue
        if self._stalled:
            if not waiting.empty():
                return
            self._stalled = False
            self._app.call_later(self._app.refresh, layout=True)
        try:
            waiting.put(data, timeout=PATIENCE_SECONDS)
        except queue.Full:
            self._stalled = True

    def close(self) -> None:
        """Let the writer thread end; one that the terminal keeps waiting is left behind, it goes with the process."""
        writer = self._writer_thread
        if writer is None:
            return
        try:
            writer._queue.put(None, timeout=PATIENCE_SECONDS)
        except queue.Full:
            return
        writer.join(PATIENCE_SECONDS)

    def run_input_thread(self) -> None:
        decode = getincrementaldecoder("utf-8")("replace").decode
        parser = AltKeysParser(self._debug)
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                waiting = parser._timeout_time is not None
                if selector.select(PENDING_SECONDS if waiting else IDLE_SECONDS):
                    try:
                        data = os.read(self.fileno, READ_BYTES)
                    except OSError:
                        data = b""
                    if not data:  # the terminal is gone: reading on would spin
                        self._app.call_later(self._app.exit)
                        return
                    for event in parser.feed(decode(data)):
                        self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)
