"""Key bindings out of the table of commands, and the user's key map checked against every binding there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.keys import Keys

from xenconsole.commands import COMMANDS
from xenconsole.settings import defaults_of, key_clashes


def app_bindings() -> list[BindingType]:
    """The commands' keys, and Alt+1…9 that go to a console from anywhere, a console too."""
    made: list[BindingType] = [
        Binding(
            command.keys,
            f"command('{command.name}')",
            command.footer or command.help,
            show=bool(command.footer),
            tooltip=command.help,
            id=command.name,
        )
        for command in COMMANDS
        if command.keys
    ]
    for n in range(1, 10):
        made.append(Binding(f"alt+{n}", f"to_console({n})", f"console of domain {n}", show=False, priority=True, id=f"to-console-{n}"))
    return made


def scope_of(name: str) -> str:
    """Bindings of one scope work at the same time: commands and the table's keys together, each dialog for itself."""
    first, dot, _ = name.partition(".")
    return first if dot and first not in ("table", "log") else "main"


def checked_keymap(keys: Mapping[str, str], nodes: Iterable[type[DOMNode]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The part of the user's key map that can hold, and a line for each entry that cannot."""
    pairs: list[tuple[str, str]] = []
    for node in nodes:
        pairs += [(b.id, b.key) for b in Binding.make_bindings(node.__dict__.get("BINDINGS", [])) if b.id]
    defaults = defaults_of(pairs)
    known = {key.value for key in Keys} | {b.key for c in range(33, 127) if chr(c) != "," for b in Binding.make_bindings([Binding(chr(c), "")])}
    problems: list[str] = []
    spelled: dict[str, str] = {}
    for name, value in keys.items():
        if name in SPECIAL:
            continue
        normal = [binding.key for binding in Binding.make_bindings([Binding(value, "")])]
        wrong = [key for key in normal if key.split("+")[-1] not in known]
        if wrong:
            problems.append(f"keys.{name} = {wrong[0]!r}: no such key")
        else:
            spelled[name] = ",".join(normal)
    good, clashes = key_clashes(spelled, defaults, {name: scope_of(name) for name in defaults})
    return good, (*problems, *clashes)


SPECIAL: frozenset[str] = frozenset({"console.escape"})
"""Keys that are no Textual bindings: their screens read them from the settings."""
