"""What a guest says, made harmless for a real terminal: bytes in, bytes out, no I/O.

Only what is known to be safe passes: text, UTF-8, colours, cursor moves, erasing, scroll regions, the alternate screen. What
makes a terminal answer (its answer would be typed into whatever reads it), act outside its window (titles, clipboard, window
operations), or stay changed in ways that cannot be undone (character sets, tab stops, mouse and paste modes, palettes) is
dropped. The output depends on the bytes alone, not on how they are cut into chunks; what is kept between chunks is at most one
short sequence.
"""

from __future__ import annotations

import re
from typing import Final

MAX_CSI: Final = 64
"""Bytes of parameters in a control sequence; a longer one is dropped."""
MAX_STRING: Final = 65536
"""Bytes after which an unfinished OSC, DCS, APC, PM or SOS is taken for ended, so that it cannot swallow all that follows."""
BELL_GAP: Final = 512
"""Bytes that lie between two bells that ring."""

_REPLACEMENT: Final = "\ufffd".encode()
_TEXT: Final = re.compile(
    rb"(?:[\x20-\x7e\x08-\x0d]|\xc2[\xa0-\xbf]|[\xc3-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})+"
)
"""Text as it passes: printable ASCII, BS HT LF VT FF CR, and UTF-8 but for the C1 controls."""
_PARTIAL: Final = re.compile(
    rb"\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xed[\x80-\x9f]|\xf0[\x90-\xbf][\x80-\xbf]?"
    rb"|[\xf1-\xf3][\x80-\xbf]{1,2}|\xf4[\x80-\x8f][\x80-\xbf]?|[\xc2-\xf4]"
)
"""The beginning of a UTF-8 character, as much of it as there is."""
_STRING_END: Final = re.compile(rb"[\x07\x18\x1a\x1b]")

_ESC_PASSES: Final = frozenset(b"78DEM=>")
"""DECSC DECRC IND NEL RI DECKPAM DECKPNM."""
_CLEAR: Final = b"\x1b[0m\x1b[r\x1b[H\x1b[2J"
"""What stands for a full reset (RIS), which would also lose the person's scrollback and settings."""
_CSI_PARAMS: Final = dict.fromkeys(b"@ABCDEFGILMPSXZ`ade", 1) | dict.fromkeys(b"Hfr", 2) | dict.fromkeys(b"su", 0)
"""Plain control sequences that pass, with the number of parameters that they may have: ICH CUU CUD CUF CUB CNL CPL CHA CHT IL DL
DCH SU ECH CBT HPA HPR VPA VPR, CUP HVP DECSTBM, SCOSC SCORC. SD, REP, ED, EL, SM, RM and SGR are looked at more closely."""
_PRIVATE_MODES: Final = {1: False, 6: False, 7: True, 12: False, 25: True, 47: False, 1047: False, 1048: False, 1049: False}
"""DEC private modes that may be set and reset, with the state that a terminal should be left in: cursor keys, origin, autowrap,
blinking cursor, cursor shown, alternate screen and saved cursor."""
_ALTERNATE: Final = (1049, 1047, 47)
_MAX_NUMBER: Final = 9999
_PARAMETERS: Final = re.compile(rb"(?:\d{0,4}(?:;\d{0,4})*)?")
_SGR: Final = re.compile(rb"\d{0,5}(?:[;:]\d{0,5})*")


class TerminalFilter:
    """One guest's output on its way to one terminal."""

    def __init__(self) -> None:
        self._held = b""  # the beginning of a character, at most 3 bytes
        self._state = _GROUND
        self._params = bytearray()
        self._string = 0  # bytes of a string seen so far
        self._seen = 0  # bytes done with
        self._bell_at = 0  # where the next bell may ring
        self._changed: set[int] = set()  # private modes that are not as they should be left
        self._keypad = False
        self._insert = False
        self._spoke = False

    def feed(self, data: bytes) -> bytes:
        """The harmless part of `data`."""
        if not data:
            return b""
        data = self._held + data
        self._held = b""
        out = bytearray()
        position, end = 0, len(data)
        while position < end:
            start = position
            if self._state is _GROUND:
                position = self._ground(data, position, out)
            elif self._state is _STRING:
                position = self._in_string(data, position)
            else:
                self._sequence(data[position], out)
                position += 1
            self._seen += position - start
            if position == start:  # a character is unfinished
                self._held = data[position:]
                break
        self._spoke = self._spoke or bool(out)
        return bytes(out)

    def finish(self) -> bytes:
        """The rest at the end of the output, and what brings the terminal back to how it should be left."""
        out = bytearray(_REPLACEMENT if self._held else b"")
        self._held, self._state = b"", _GROUND
        out += b"".join(b"\x1b[?%d%c" % (mode, b"lh"[_PRIVATE_MODES[mode]]) for mode in sorted(self._changed, reverse=True))
        out += b"\x1b[4l" if self._insert else b""
        out += b"\x1b>" if self._keypad else b""
        if self._spoke:
            out += b"\x1b7\x1b[r\x1b8\x1b[0m"  # setting the scroll region moves the cursor
        self._changed.clear()
        self._insert = self._keypad = self._spoke = False
        return bytes(out)

    def _ground(self, data: bytes, position: int, out: bytearray) -> int:
        """Text and single controls from `position`; returns where it got to, `position` itself if a character is unfinished."""
        if match := _TEXT.match(data, position):
            out += match.group()
            return match.end()
        byte = data[position]
        if byte == 0x1B:
            self._state = _ESCAPE
        elif byte == 0x07:
            if self._seen >= self._bell_at:
                out.append(byte)
                self._bell_at = self._seen + BELL_GAP
        elif byte >= 0x80:
            return self._character(data, position, out)
        return position + 1  # ESC, and NUL, ENQ, SO, SI, XON, DEL and the like, which are dropped

    def _character(self, data: bytes, position: int, out: bytearray) -> int:
        """A byte that begins no character that passes: a C1 control, the start of an unfinished character, or garbage."""
        if data[position] == 0xC2 and position + 1 < len(data) and 0x80 <= data[position + 1] <= 0x9F:
            self._enter(data[position + 1] - 0x40, quiet=True)
            return position + 2
        match = _PARTIAL.match(data, position)
        if match and match.end() == len(data):
            return position
        out += _REPLACEMENT
        return match.end() if match else position + 1

    def _enter(self, final: int, *, quiet: bool = False) -> bool:
        """Begin what ESC `final` begins, if it begins something; `quiet` has all of it dropped."""
        if final == 0x5B:
            self._params.clear()
            self._state = _CSI_DROP if quiet else _CSI
        elif final in b"]PX^_":
            self._string, self._state = 0, _STRING
        else:
            self._state = _GROUND
            return False
        return True

    def _in_string(self, data: bytes, position: int) -> int:
        """Inside OSC, DCS, SOS, PM or APC: drop up to its end, whichever way a terminal may see it."""
        limit = min(len(data), position + MAX_STRING - self._string)
        match = _STRING_END.search(data, position, limit)
        if match is None:
            self._string += limit - position
            if self._string >= MAX_STRING:
                self._state = _GROUND
            return limit
        self._state = _ESCAPE if match.group() == b"\x1b" else _GROUND  # ESC \ is an ESC sequence that does nothing
        return match.end()

    def _sequence(self, byte: int, out: bytearray) -> None:
        """One byte inside an escape or control sequence."""
        if byte == 0x1B:
            self._state = _ESCAPE
        elif byte in (0x18, 0x1A):
            self._state = _GROUND
        elif byte < 0x20 or byte == 0x7F:
            if byte in range(0x08, 0x0E):
                out.append(byte)  # a terminal obeys controls in the midst of a sequence
        elif byte >= 0x80:
            self._state = _GROUND
            out += _REPLACEMENT
        elif self._state is _ESCAPE:
            if 0x20 <= byte <= 0x2F:
                self._state = _ESCAPE_DROP
            elif not self._enter(byte):
                self._escape(byte, out)
        elif self._state is _ESCAPE_DROP:
            if byte >= 0x30:
                self._state = _GROUND
        elif byte < 0x40:
            self._params.append(byte)
            if len(self._params) > MAX_CSI:
                self._params.clear()
                self._state = _CSI_DROP
        else:
            if self._state is _CSI:
                self._control(byte, bytes(self._params), out)
            self._state = _GROUND

    def _escape(self, final: int, out: bytearray) -> None:
        if final == ord("c"):
            out += _CLEAR
        elif final in _ESC_PASSES:
            out += bytes((0x1B, final))
            if final in b"=>":
                self._keypad = final == ord("=")

    def _control(self, final: int, params: bytes, out: bytearray) -> None:
        """A complete CSI sequence: passes if it is on the list, or the part of it that is."""
        if final == ord("m"):
            passes = _SGR.fullmatch(params) is not None
        elif params[:1] == b"?" and final in b"hl":
            self._private_modes(params[1:], final == ord("h"), out)
            return
        elif not _PARAMETERS.fullmatch(params):
            passes = False
        else:
            numbers = [int(part or 0) for part in params.split(b";")] if params else []
            passes = self._plain(final, numbers)
        if passes:
            out += b"\x1b[" + params + bytes((final,))

    def _plain(self, final: int, numbers: list[int]) -> bool:
        first = numbers[0] if numbers else 0
        if final in b"JK":  # not ED 3, which erases the person's scrollback
            return len(numbers) <= 1 and first <= 2
        if final in b"Tb":  # SD; with more parameters it is highlight tracking. REP: no more than a screen's line
            return len(numbers) <= 1 and (final == ord("T") or first <= 512)
        if final in b"hl":
            if numbers != [4]:
                return False
            self._insert = final == ord("h")
            return True
        return final in _CSI_PARAMS and len(numbers) <= _CSI_PARAMS[final] and all(number <= _MAX_NUMBER for number in numbers)

    def _private_modes(self, params: bytes, on: bool, out: bytearray) -> None:
        if not _PARAMETERS.fullmatch(params):
            return
        for mode in [int(part or 0) for part in params.split(b";")]:
            left = _PRIVATE_MODES.get(mode)
            if left is None:
                continue
            out += b"\x1b[?%d%c" % (mode, b"lh"[on])
            if mode in _ALTERNATE and not on:
                self._changed.difference_update(_ALTERNATE)
            elif on != left and mode != 1048:
                self._changed.add(mode)
            else:
                self._changed.discard(mode)


_GROUND: Final = "text"
_ESCAPE: Final = "escape"
_ESCAPE_DROP: Final = "escape, to be dropped"
_CSI: Final = "control sequence"
_CSI_DROP: Final = "control sequence, to be dropped"
_STRING: Final = "string"
