"""What a command is: its name, its arguments, how hard it asks, the line that a user of Xen would type. Imports neither Textual nor the engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Confirm(Enum):
    """How hard a command asks before it acts: scaled to the damage it can do."""

    NONE = "none"
    ASK = "ask"  # y or n
    NAME = "name"  # the domain's name must be typed


@dataclass(frozen=True)
class Argument:
    """One argument; `name` is the engine's name for it. `kind`: domain file disk pool snapshot column theme tab choice number count text flag,
    and memory (KiB, typed as xl takes it). `option` is xl's letter for it: it may be given by that, in any order."""

    name: str
    kind: str
    help: str = ""
    optional: bool = False
    choices: tuple[str, ...] = ()
    option: str = ""

    @property
    def letter(self) -> str:
        """What stands before it, or for a flag in its place: "-p". Empty for what has a place only."""
        return self.option or (f"-{self.name[0]}" if self.kind == "flag" else "")


DOMAIN = Argument("domid", "domain", "name or ID", optional=True)
"""Left out, it is the chosen domain."""


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    group: str
    arguments: tuple[Argument, ...] = ()
    aliases: tuple[str, ...] = ()
    keys: str = ""
    confirm: Confirm = Confirm.NONE
    xl: str = ""
    engine: bool = False
    footer: str = ""  # the word in the footer; empty keeps it out
    typed: bool = True  # can be typed at the prompt and found in the palette
    loses: str = ""  # what the confirmation says will be lost
    tells: bool = False  # the engine's answer is shown, not only its errors

    @property
    def usage(self) -> str:
        """`restore [DOMAIN] SNAPSHOT`."""
        words = [self.name]
        for argument in self.arguments:
            word = argument.name if argument.kind in ("text", "choice", "number", "count") else argument.kind
            word = argument.letter if argument.kind == "flag" else f"{argument.option} {word.upper()}".strip()
            words.append(f"[{word}]" if argument.optional else word)
        return " ".join(words)

    @property
    def on_domain(self) -> bool:
        """Whether it is carried out on a domain, the chosen one when none is named."""
        return bool(self.arguments) and self.arguments[0].kind == "domain" and not self.arguments[0].option
