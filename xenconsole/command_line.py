"""The ':' prompt's language: a command's name and its arguments, as xl takes them. Pure: text in, command and values out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emulator.errors import UserError
from xenconsole.command import Argument, Command
from xenconsole.commands import COMMANDS, find_command


@dataclass(frozen=True)
class Surroundings:
    """What completion and parsing may know: the domains by ID, the chosen one, and the words of each kind."""

    domains: Mapping[int, str] = field(default_factory=dict)
    chosen: int = -1
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # kind -> words: column, theme, snapshot
    files: Callable[[str], list[str]] = lambda prefix: []


@dataclass(frozen=True)
class Parsed:
    command: Command
    values: dict[str, str | int | bool]


def find_domain(word: str, domains: Mapping[int, str]) -> int:
    """By xl's rule: digits are an ID, anything else a name."""
    if word.isdecimal():
        if (domid := _domid(word)) in domains:
            return domid
        raise UserError(f"no domain has the ID {word[:20]}")
    for domid, name in domains.items():
        if name == word:
            return domid
    raise UserError(f"no domain is named {word!r}")


def _domid(word: str) -> int:
    """-1 for a word that is none."""
    return int(word) if word.isdecimal() and len(word) < 10 else -1


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UserError(f"cannot read {line!r}", why=str(error).lower()) from error


def parse(line: str, around: Surroundings) -> Parsed:
    """One typed line. UserError names what is wrong and gives the usage."""
    words = _split(line.strip().removeprefix(":"))
    if not words:
        raise UserError("nothing typed")
    command = find_command(words[0])
    if command is None or not command.typed:
        close = [c.name for c in COMMANDS if c.typed and c.name.startswith(words[0])]
        if len(close) != 1:
            raise UserError(f"no command {words[0]!r}", fix="? lists them")
        command = find_command(close[0])
        assert command is not None
    return Parsed(command, _bind(command, words[1:], around))


def _bind(command: Command, words: list[str], around: Surroundings) -> dict[str, str | int | bool]:
    values: dict[str, str | int | bool] = {}
    usage = f"usage: {command.usage}"
    _take_options(command, words, values, around)
    wanted = [a for a in command.arguments if a.kind != "flag" and not (a.option and (values or not words))]
    for argument in wanted:
        if argument.kind == "domain" and (not words or (len(words) < len(wanted) and not _is_domain(words[0], around))):
            if around.chosen < 0:
                raise UserError("no domain is chosen", fix=usage)
            values[argument.name] = around.chosen
            continue
        if not words:
            if argument.optional:
                continue
            raise UserError(f"{command.name} needs {argument.help or argument.name}", fix=usage)
        word = words.pop(0)
        if argument is wanted[-1] and words and argument.kind == "text":
            word, words = " ".join([word, *words]), []
        values[argument.name] = _value(argument, word, around)
    if words:
        raise UserError(f"{command.name} does not take {words[0]!r}", fix=usage)
    return values


def _take_options(command: Command, words: list[str], values: dict[str, str | int | bool], around: Surroundings) -> None:
    """Move what is given by letter from the words to the values."""
    lettered = {a.letter: a for a in command.arguments if a.letter}
    while (at := next((at for at, word in enumerate(words) if word in lettered), -1)) >= 0:
        argument = lettered[words.pop(at)]
        if argument.kind == "flag":
            values[argument.name] = True
        elif at < len(words):
            values[argument.name] = _value(argument, words.pop(at), around)
        else:
            raise UserError(f"{argument.letter} needs {argument.help}", fix=f"usage: {command.usage}")


def _is_domain(word: str, around: Surroundings) -> bool:
    return word in around.domains.values() or _domid(word) in around.domains


def _value(argument: Argument, word: str, around: Surroundings) -> str | int:
    if argument.kind == "domain":
        return find_domain(word, around.domains)
    if argument.kind == "number":
        try:
            float(word)
        except ValueError as error:
            raise UserError(f"{word!r} is not a number") from error
        return word
    if argument.kind == "memory":
        return _kib(word)
    if argument.kind == "count":
        if not word.isdecimal() or len(word) > 9:
            raise UserError(f"{word!r} is not a number", fix=argument.help)
        return int(word)
    known = argument.choices or around.words.get(argument.kind, ())
    if argument.kind in ("choice", "column", "theme") and word not in known:
        raise UserError(f"no {argument.name} {word!r}", fix="one of " + ", ".join(known))
    return word


def _kib(word: str) -> int:
    """Memory as xl takes it: MiB, or with k, m, g or t behind it."""
    number, unit = (word[:-1], word[-1].lower()) if word[-1:].lower() in ("k", "m", "g", "t") else (word, "m")
    if not number.isdecimal() or len(number) > 9:
        raise UserError(f"{word!r} is no amount of memory", fix="512 or 512m, 1g, 65536k")
    return int(number) << {"k": 0, "m": 10, "g": 20, "t": 30}[unit]


def complete(line: str, around: Surroundings) -> list[str]:
    """Words that could stand where the cursor is (at the line's end), best first; each replaces the last word."""
    words = line.split(" ")
    last = words[-1]
    if len(words) == 1:
        return sorted(c.name for c in COMMANDS if c.typed and c.name.startswith(last))
    command = find_command(words[0])
    if command is None:
        return []
    given = [w for w in words[1:-1] if w and not w.startswith("-")]
    wanted = [a for a in command.arguments if a.kind != "flag"]
    if command.on_domain and given and not _is_domain(given[0], around):
        given = ["", *given]
    found: list[str] = []
    candidates = wanted[len(given) : len(given) + 1]
    if candidates and candidates[0].kind == "domain" and len(wanted) > 1:
        candidates = wanted[:2]  # the domain may be left out
    for argument in candidates:
        if argument.kind == "domain":
            found += [name for domid, name in around.domains.items() if domid or not command.engine]
        elif argument.kind == "file":
            return around.files(last)
        else:
            found += argument.choices or around.words.get(argument.kind, ())
    return [shlex.quote(word) for word in found if word.startswith(last.strip("'\""))]


def usage_at(line: str) -> str:
    """What the prompt says under the line: the command's usage and help, empty when none is recognised."""
    command = find_command(line.split(" ")[0])
    return f"{command.usage}  —  {command.help}" if command is not None and command.typed else ""
