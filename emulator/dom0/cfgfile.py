"""The syntax of xl.cfg files: text in, settings with their lines out. Nothing is ever executed.

Follows tools/libs/util/libxlu_cfg_l.l and libxlu_cfg_y.y: `name = value` or `name += value` ended by a newline or ';', a value
being a quoted string, a number or a list of values. Numeric escapes do here what xl.cfg(5) means by them; Xen 4.17's own code
drops the character. A carriage return before a newline and a comment on an unended last line are let pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from emulator.errors import UserError

MAX_TEXT: Final = 1 << 20
"""Characters of a cfg file."""
MAX_DEPTH: Final = 32
"""Lists in lists."""

Value = str | tuple["Value", ...]
"""A setting's value: numbers stay the text they were, as in xl."""

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t]+|\r(?=\n))
    |(?P<newline>(?:\#[^\n]*)?\n|\#[^\n]*\Z)
    |(?P<ident>[a-z][._0-9a-z]*)
    |(?P<number>[0-9][0-9a-fx]*)
    |(?P<string>'(?:[^'\\\n]|\\[^\n])*'|"(?:[^"\\\n]|\\[^\n])*")
    |(?P<mark>\+=|[=,;\[\]])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-3][0-7]{0,2}|[4-7][0-7]?|.)", re.DOTALL)
_PLAIN: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "'": "'", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One name's value as it stands after the whole file, and the line that set it last."""

    value: Value
    line: int
    added: bool = False


@dataclass(slots=True)
class _Parts:
    """A setting in the making: what += added is joined once, at the end, or many additions would take quadratic time."""

    values: list[Value]
    line: int
    added: bool

    def joined(self) -> Setting:
        if len(self.values) == 1:
            return Setting(self.values[0], self.line, self.added)
        if isinstance(self.values[0], str):
            return Setting("".join(part for part in self.values if isinstance(part, str)), self.line, True)
        return Setting(tuple(item for part in self.values if isinstance(part, tuple) for item in part), self.line, True)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int

    def shown(self) -> str:
        if self.kind in ("newline", "end"):
            return f"the end of the {'line' if self.kind == 'newline' else 'file'}"
        return f"'{printable(self.text)}'"


def printable(text: str, limit: int = 40) -> str:
    """The text fit for a one-line message: control characters escaped, long ones cut."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:limit])
    return shown + ("…" if len(text) > limit else "")


def error(what: str, file: str, line: int, fix: str = "") -> UserError:
    return UserError(what, where=f"{file}:{line}", fix=fix)


def parse_settings(text: str, file: str) -> dict[str, Setting]:
    """All settings of a cfg text. UserError `file:line: …` at the first mistake."""
    if len(text) > MAX_TEXT:
        raise UserError("cfg: too large", where=file, why=f"{len(text)} characters, at most {MAX_TEXT}")
    return _Parser(_tokens(text, file), file).settings()


def _tokens(text: str, file: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _lexical_error(text, at, file, line)
        kind = match.lastgroup or ""
        if kind == "string":
            yield _Token(kind, _dequote(match.group(), file, line), line)
        elif kind != "space":
            yield _Token(kind, match.group(), line)
        line += kind == "newline"
        at = match.end()
    yield _Token("end", "", line)


def _lexical_error(text: str, at: int, file: str, line: int) -> UserError:
    rest = text[at : at + 200].split("\n", 1)[0]
    if rest[:1] in ("'", '"'):
        return error(f"a string without its closing quote: {printable(rest)}", file, line)
    fix = "a cfg file is data, not Python" if rest[:1] in tuple("+-.():{") else ""
    if rest[:1].isupper():
        fix = "names are lower case, text needs quotes"
    return error(f"cannot read '{printable(rest)}'", file, line, fix)


def _dequote(quoted: str, file: str, line: int) -> str:
    def replace(match: re.Match[str]) -> str:
        body = match.group(1)
        if body in _PLAIN:
            return _PLAIN[body]
        if len(body) == 3 and body[0] == "x":
            code = int(body[1:], 16)
        elif body[0] in "01234567":
            code = int(body, 8)
        else:
            raise error(f"a string has an unknown escape '\\{printable(body)}'", file, line)
        if not code:
            raise error("a string has a NUL character in it", file, line)
        return chr(code)

    return _ESCAPE.sub(replace, quoted[1:-1]) if "\\" in quoted else quoted[1:-1]


class _Parser:
    """Recursive descent over the tokens, one of them ahead."""

    def __init__(self, tokens: Iterator[_Token], file: str) -> None:
        self._tokens = tokens
        self._file = file
        self._next = next(tokens)

    def _advance(self) -> _Token:
        token = self._next
        self._next = next(self._tokens, token)
        return token

    def _fail(self, expected: str) -> UserError:
        return error(f"expected {expected}, not {self._next.shown()}", self._file, self._next.line)

    def settings(self) -> dict[str, Setting]:
        found: dict[str, _Parts] = {}
        while self._next.kind != "end":
            if self._next.kind == "newline" or (self._next.kind, self._next.text) == ("mark", ";"):
                self._advance()
                continue
            if self._next.kind != "ident":
                raise self._fail("a name")
            self._assignment(found)
        return {name: parts.joined() for name, parts in found.items()}

    def _assignment(self, found: dict[str, _Parts]) -> None:
        name = self._advance()
        if self._next.kind != "mark" or self._next.text not in ("=", "+="):
            raise self._fail(f"'=' after '{printable(name.text)}'")
        adds = self._advance().text == "+="
        line = self._next.line
        value = self._value(0)
        if self._next.kind not in ("newline", "end") and (self._next.kind, self._next.text) != ("mark", ";"):
            raise self._fail(f"the end of the line after '{printable(name.text)}'")
        before = found.get(name.text) if adds else None
        if before is None:
            found[name.text] = _Parts([value], line, adds)
        elif isinstance(before.values[0], str) is not isinstance(value, str):
            raise error(f'{printable(name.text)}: can\'t add [list] to "string" or vice versa', self._file, name.line)
        else:
            before.values.append(value)
            before.line, before.added = line, True

    def _value(self, depth: int) -> Value:
        if self._next.kind in ("string", "number"):
            return self._advance().text
        if self._next.kind != "mark" or self._next.text != "[":
            raise self._fail("a string, a number or a list")
        if depth >= MAX_DEPTH:
            raise error(f"lists nested more than {MAX_DEPTH} deep", self._file, self._next.line)
        self._advance()
        return self._list(depth)

    def _list(self, depth: int) -> Value:
        values: list[Value] = []
        self._skip_newlines()
        while (self._next.kind, self._next.text) != ("mark", "]"):
            values.append(self._value(depth + 1))
            self._skip_newlines()
            if (self._next.kind, self._next.text) == ("mark", ","):
                self._advance()
                self._skip_newlines()
            elif (self._next.kind, self._next.text) != ("mark", "]"):
                raise self._fail("',' or ']' in a list")
        self._advance()
        return tuple(values)

    def _skip_newlines(self) -> None:
        while self._next.kind == "newline":
            self._advance()
