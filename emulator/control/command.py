"""A command of the control interface and its arguments, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from emulator.control.hostapi import HostApi
from emulator.control.messages import Argument, CommandResult
from emulator.errors import UserError

MAX_ARGUMENT = 1 << 18
"""Longest text of an argument in characters; a cfg text has the config parser's own limit besides."""

_Kind = TypeVar("_Kind", bool, int, str)


@dataclass(frozen=True)
class Command:
    """One command: its arguments by name, the function that runs it."""

    run: Callable[[HostApi, Arguments], CommandResult]
    needs: Mapping[str, type]
    takes: Mapping[str, type]


class Arguments:
    """A command's arguments, each asked for by name and type; a wrong one is named."""

    def __init__(self, command: str, args: Mapping[str, Argument], progress: Callable[[str], None]) -> None:
        self._command = command
        self._args = args
        self.progress = progress

    def get(self, name: str, default: _Kind) -> _Kind:
        return self._args.get(name, default)  # type: ignore[return-value]  # checked against the command's table

    def domid(self) -> int:
        return self.get("domid", -1)

    def has(self, name: str) -> bool:
        return name in self._args

    def check(self, needs: Mapping[str, type], takes: Mapping[str, type]) -> None:
        known = {**needs, **takes}
        for name, value in self._args.items():
            if name not in known:
                raise UserError(f"{self._command} takes no argument {name[:64]!r}", fix=f"known: {', '.join(known) or 'none'}")
            if type(value) is not known[name]:
                raise UserError(f"{self._command}: {name} should be a {known[name].__name__}, not a {type(value).__name__}")
            if isinstance(value, str) and len(value) > MAX_ARGUMENT:
                raise UserError(f"{self._command}: {name} is {len(value)} long", fix=f"at most {MAX_ARGUMENT}")
        for name in needs:
            if name not in self._args:
                raise UserError(f"{self._command} needs {name}=")
