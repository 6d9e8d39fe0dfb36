"""Keys, pastes and the mouse as bytes for the guest."""

from __future__ import annotations

import pytest
from textual import events

from tests.patience import until
from xenconsole.terminal.core import Modes
from xenconsole.terminal.driver import AltKeysParser
from xenconsole.terminal.keys import MOVE, PRESS, RELEASE, focus_bytes, key_bytes, mouse_bytes, paste_bytes

PLAIN = Modes()


@pytest.mark.parametrize(
    ("key", "character", "expected"),
    [
        ("a", "a", b"a"),
        ("A", "A", b"A"),
        ("é", "é", "é".encode()),
        ("space", " ", b" "),
        ("enter", "\r", b"\r"),
        ("ctrl+j", "\n", b"\n"),
        ("tab", "\t", b"\t"),
        ("shift+tab", None, b"\x1b[Z"),
        ("escape", "\x1b", b"\x1b"),
        ("backspace", "\x7f", b"\x7f"),
        ("backspace", "\x08", b"\x08"),
        ("ctrl+backspace", None, b"\x08"),
        ("alt+backspace", None, b"\x1b\x7f"),
        ("alt+enter", None, b"\x1b\r"),
        ("delete", None, b"\x1b[3~"),
        ("ctrl+c", "\x03", b"\x03"),
        ("ctrl+z", None, b"\x1a"),
        ("ctrl+q", None, b"\x11"),
        ("ctrl+@", "\x00", b"\x00"),
        ("ctrl+space", None, b"\x00"),
        ("ctrl+backslash", None, b"\x1c"),
        ("ctrl+right_square_bracket", "\x1d", b"\x1d"),
        ("ctrl+underscore", None, b"\x1f"),
        ("ctrl+2", None, b"\x00"),
        ("alt+x", "x", b"\x1bx"),
        ("alt+shift+x", None, b"\x1bX"),
        ("alt+ctrl+a", None, b"\x1b\x01"),
        ("alt+full_stop", None, b"\x1b."),
        ("full_stop", ".", b"."),
        ("f1", None, b"\x1bOP"),
        ("f5", None, b"\x1b[15~"),
        ("f12", None, b"\x1b[24~"),
        ("ctrl+f1", None, b"\x1b[1;5P"),
        ("shift+f5", None, b"\x1b[15;2~"),
        ("ctrl+right", None, b"\x1b[1;5C"),
        ("alt+up", None, b"\x1b[1;3A"),
        ("pageup", None, b"\x1b[5~"),
        ("home", None, b"\x1b[H"),
        ("left_shift", None, None),
        ("caps_lock", None, None),
        ("media_play", None, None),
        ("subtract", None, b"-"),
    ],
)
def test_keys(key: str, character: str | None, expected: bytes | None) -> None:
    assert key_bytes(key, character, PLAIN) == expected


def test_modes_change_arrows_and_enter() -> None:
    assert key_bytes("up", None, Modes(application_cursor=True)) == b"\x1bOA"
    assert key_bytes("ctrl+up", None, Modes(application_cursor=True)) == b"\x1b[1;5A"
    assert key_bytes("enter", "\r", Modes(newline=True)) == b"\r\n"


def test_a_paste_cannot_end_its_own_brackets_and_sends_lines_as_typed() -> None:
    assert paste_bytes("a\r\nb\nc\x1b[201~\x9b\x00\td", PLAIN) == b"a\rb\rc[201~\td"
    assert paste_bytes("x\x1b[201~y", Modes(bracketed_paste=True)) == b"\x1b[200~x[201~y\x1b[201~"


@pytest.mark.parametrize(
    ("mode", "action", "button", "expected"),
    [
        ("", PRESS, 0, None),
        ("x10", PRESS, 0, b"\x1b[M\x20\x25\x23"),
        ("x10", RELEASE, 0, None),
        ("x10", PRESS, 64, None),
        ("normal", RELEASE, 0, b"\x1b[M\x23\x25\x23"),
        ("normal", MOVE, 0, None),
        ("normal", PRESS, 65, b"\x1b[M\x61\x25\x23"),
        ("button", MOVE, 0, b"\x1b[M\x40\x25\x23"),
        ("button", MOVE, 3, None),
        ("any", MOVE, 3, b"\x1b[M\x43\x25\x23"),
    ],
)
def test_mouse_reports_only_what_the_guest_asked_for(mode: str, action: str, button: int, expected: bytes | None) -> None:
    assert mouse_bytes(action, button, 4, 2, Modes(mouse=mode)) == expected


def test_mouse_in_sgr_has_modifiers_releases_and_far_cells() -> None:
    modes = Modes(mouse="any", mouse_sgr=True)
    assert mouse_bytes(PRESS, 2, 299, 99, modes, ctrl=True, alt=True) == b"\x1b[<26;300;100M"
    assert mouse_bytes(RELEASE, 2, 299, 99, modes) == b"\x1b[<2;300;100m"
    assert mouse_bytes(PRESS, 2, 299, 99, Modes(mouse="any")) is None


def test_focus_is_told_only_when_asked() -> None:
    assert focus_bytes(True, PLAIN) == b""
    assert focus_bytes(False, Modes(focus=True)) == b"\x1b[O"


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("\x1b1", b"\x1b1"),
        ("\x1b9", b"\x1b9"),
        ("\x1bf", b"\x1bf"),
        ("\x1b.", b"\x1b."),
        ("\x1bX", b"\x1bX"),
        ("\x1b\x01", b"\x1b\x01"),
        ("\x1b\r", b"\x1b\r"),
        ("\x1b\x7f", b"\x1b\x7f"),
        ("\x1bé", "\x1bé".encode()),
        ("¡", "¡".encode()),
        ("\x1bOA", b"\x1b[A"),
        ("\x1b[1;5C", b"\x1b[1;5C"),
        ("\x1b[49;3u", b"\x1b1"),
        ("\x1b", b"\x1b"),
        ("\x1b[", b"\x1b["),
        ("\x1d", b"\x1d"),
    ],
)
def test_what_a_terminal_sends_arrives_at_the_guest_as_it_was(sequence: str, expected: bytes) -> None:
    parser = AltKeysParser()
    found = list(parser.feed(sequence))
    found = found or until(lambda: list(parser.tick()))  # an Escape alone is one when nothing follows it
    keys = [event for event in found if isinstance(event, events.Key)]
    assert b"".join(key_bytes(key.key, key.character, PLAIN) or b"" for key in keys) == expected


def test_alt_and_a_digit_have_their_own_name() -> None:
    assert [event.key for event in AltKeysParser().feed("\x1b3") if isinstance(event, events.Key)] == ["alt+3"]
