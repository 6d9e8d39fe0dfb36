"""What a key, a paste and the mouse become on the guest's console, as xterm sends them (ctlseqs, "PC-Style Function Keys").

Keys come by Textual's names ("ctrl+a", "alt+shift+x", "f5"); both the legacy encodings and the Kitty protocol end up there.
Pure functions: bytes out, or None for a key that a terminal sends nothing for (a modifier alone, a media key).
"""

from __future__ import annotations

from textual.keys import key_to_character

from xenconsole.terminal.core import Modes

ESC = b"\x1b"
PASTE_LIMIT = 1 << 20
"""Characters of one paste that are typed; what is longer is no paste but an accident."""

_CURSOR = {"up": "A", "down": "B", "right": "C", "left": "D", "home": "H", "end": "F", "kp_begin": "E"}
_TILDE = {
    "insert": 2, "delete": 3, "pageup": 5, "pagedown": 6, "f5": 15, "f6": 17, "f7": 18, "f8": 19, "f9": 20, "f10": 21,
    "f11": 23, "f12": 24, "f13": 25, "f14": 26, "f15": 28, "f16": 29, "f17": 31, "f18": 32, "f19": 33, "f20": 34,
}  # fmt: skip
_SS3 = {"f1": "P", "f2": "Q", "f3": "R", "f4": "S"}
_KEYPAD = {"decimal": ".", "divide": "/", "multiply": "*", "subtract": "-", "add": "+", "equal": "=", "separator": ","}
_CONTROL = {
    "@": 0, "at": 0, "space": 0, "2": 0, "3": 27, "4": 28, "5": 29, "6": 30, "7": 31, "8": 127,
    "left_square_bracket": 27, "backslash": 28, "right_square_bracket": 29, "circumflex_accent": 30, "underscore": 31,
    "minus": 31, "slash": 31, "question_mark": 127, "backspace": 8,
}  # fmt: skip
_MODIFIERS = {"shift": 1, "alt": 2, "ctrl": 4, "meta": 8, "super": 0, "hyper": 0}


def split_key(key: str) -> tuple[frozenset[str], str]:
    """Modifiers and name of a key as Textual spells it."""
    *modifiers, name = key.split("+")
    return frozenset(modifiers), name


def key_bytes(key: str, character: str | None, modes: Modes) -> bytes | None:
    """Bytes of one key. `character` is what Textual has for it, if anything."""
    modifiers, name = split_key(key)
    alt = ESC if "alt" in modifiers else b""
    parameter = 1 + sum(_MODIFIERS.get(m, 0) for m in modifiers)
    if name in _CURSOR:
        final = _CURSOR[name]
        if parameter > 1:
            return f"\x1b[1;{parameter}{final}".encode()
        return (f"\x1bO{final}" if modes.application_cursor else f"\x1b[{final}").encode()
    if name in _TILDE:
        return (f"\x1b[{_TILDE[name]};{parameter}~" if parameter > 1 else f"\x1b[{_TILDE[name]}~").encode()
    if name in _SS3:
        return (f"\x1b[1;{parameter}{_SS3[name]}" if parameter > 1 else f"\x1bO{_SS3[name]}").encode()
    if name == "enter":
        return alt + (b"\r\n" if modes.newline else b"\r")
    if name == "tab":
        return b"\x1b[Z" if "shift" in modifiers else alt + b"\t"
    if name == "escape":
        return alt + ESC
    if "ctrl" in modifiers:
        code = _control(name)
        if code is not None:
            return alt + bytes([code])
    if name == "backspace":
        return alt + (b"\x08" if character == "\x08" else b"\x7f")
    text = _text(name, character, modifiers)
    return alt + text.encode() if text else None


def _control(name: str) -> int | None:
    if len(name) == 1 and name.isascii() and name.isalpha():
        return ord(name.lower()) & 0x1F
    return _CONTROL.get(name)


def _text(name: str, character: str | None, modifiers: frozenset[str]) -> str:
    """The printable text of a key, empty when it has none."""
    if character and character.isprintable():
        return character
    if name == "space":
        return " "
    if name in _KEYPAD:
        return _KEYPAD[name]
    found = name if len(name) == 1 else key_to_character(name) or ""
    if not found.isprintable():
        return ""
    return found.upper() if "shift" in modifiers and len(found) == 1 else found


def paste_bytes(text: str, modes: Modes) -> bytes:
    """A paste as typed: lines end with CR, control characters are left out (an ESC would end the brackets early)."""
    lines = text[:PASTE_LIMIT].replace("\r\n", "\r").replace("\n", "\r")
    data = "".join(c for c in lines if c in "\r\t" or (c >= " " and not "\x7f" <= c <= "\x9f")).encode("utf-8", "replace")
    return b"\x1b[200~" + data + b"\x1b[201~" if modes.bracketed_paste else data


PRESS, RELEASE, MOVE = "press", "release", "move"
WHEEL_UP, WHEEL_DOWN = 64, 65


def mouse_bytes(
    action: str, button: int, x: int, y: int, modes: Modes, *, shift: bool = False, alt: bool = False, ctrl: bool = False
) -> bytes | None:
    """A mouse report, or None when the guest did not ask for this one.

    `button` is xterm's: 0 left, 1 middle, 2 right, 3 none (a move with no button), 64 and 65 the wheel; x and y are
    0-based cells. Without SGR (1006) a cell past column or row 223 cannot be told and is not."""
    if not modes.mouse:
        return None
    if modes.mouse == "x10" and (action != PRESS or button > 2):
        return None
    if action == MOVE and (modes.mouse == "normal" or (modes.mouse == "button" and button == 3)):
        return None
    if action == RELEASE and button >= WHEEL_UP:
        return None
    code = button + (32 if action == MOVE else 0)
    if modes.mouse != "x10":
        code += 4 * shift + 8 * alt + 16 * ctrl
    if modes.mouse_sgr:
        return f"\x1b[<{code};{x + 1};{y + 1}{'m' if action == RELEASE else 'M'}".encode()
    if action == RELEASE:
        code = code & ~3 | 3
    if not (0 <= x < 223 and 0 <= y < 223):
        return None
    return b"\x1b[M" + bytes([32 + code, 33 + x, 33 + y])


def focus_bytes(focused: bool, modes: Modes) -> bytes:
    """Focus report, empty when the guest did not ask (1004)."""
    if not modes.focus:
        return b""
    return b"\x1b[I" if focused else b"\x1b[O"
