"""The terminal driver of the app, with Alt told apart.

Textual's parser takes ESC 1 for "¡" (a Mac's Option key), ESC f for Ctrl+Right, and drops the Alt of ESC Ctrl+A: right for
forms, wrong for a console that owes the guest every key and Alt+1…9 to its user. Here ESC and one character, or one control
character, is Alt with that key. Terminals that speak the Kitty protocol never get this far.
"""

from __future__ import annotations

import os
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
    of it, and the app wait for ever for a thread that takes nothing more."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._gone = False

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, text: str) -> int:
        try:
            return len(text) if self._gone else self._file.write(text)
        except OSError:
            self._gone = True
            return len(text)

    def flush(self) -> None:
        try:
            if not self._gone:
                self._file.flush()
        except OSError:
            self._gone = True


class AltKeysDriver(LinuxDriver):
    """Textual's Linux driver reading through AltKeysParser (the input loop offers no place to put a parser in), and outliving
    its terminal."""

    def __init__(self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        if self._file is not None:
            self._file = _Output(self._file)  # type: ignore[assignment]  # all of it that Textual uses

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
