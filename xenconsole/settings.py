"""Settings and keys, in one TOML file: $XENCONSOLE_CONFIG, else xenconsole/config.toml in the user's configuration folder.

    theme = "dark"
    delay = 0.25
    confirm = "destructive"
    [keys]
    destroy = "ctrl+d"

A setting that is broken or unknown is named and skipped, the rest holds. `SETTINGS` is the one list of them, help included.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xenconsole.resources import config_folder

LIMIT = 1 << 18
"""Bytes of a settings file that are read at most."""


@dataclass(frozen=True)
class Settings:
    """What a person may set, with the defaults."""

    theme: str = "dark"
    delay: float = 0.25
    confirm: str = "destructive"
    read_only: bool = False
    sort: str = "id"
    keys: Mapping[str, str] = field(default_factory=dict)

    def key(self, name: str, default: str) -> str:
        """The keys bound to a name (Textual's spelling, commas between)."""
        return self.keys.get(name, default)


@dataclass(frozen=True)
class Setting:
    """One setting: its name in the file, what it takes, and what it means."""

    name: str
    takes: str
    help: str
    check: Callable[[object], bool]


SETTINGS: tuple[Setting, ...] = (
    Setting("theme", "a theme's name", "colours", lambda v: isinstance(v, str)),
    Setting(
        "delay",
        "seconds, 0.1 to 60",
        "time between two updates",
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0.1 <= v <= 60,
    ),
    Setting(
        "confirm",
        "always, destructive or never",
        "when to ask before a command acts",
        lambda v: v in ("always", "destructive", "never"),
    ),
    Setting("read_only", "true or false", "start with changes refused", lambda v: isinstance(v, bool)),
    Setting("sort", "a column's name", "column the domains are sorted by at first", lambda v: isinstance(v, str)),
)


def settings_path() -> Path:
    named = os.environ.get("XENCONSOLE_CONFIG", "")
    return Path(named) if named else config_folder() / "config.toml"


def load_settings(path: Path | None = None) -> tuple[Settings, tuple[str, ...]]:
    """The settings, and one line for each thing in the file that was skipped. A missing file gives the defaults."""
    path = path or settings_path()
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        return Settings(), ()
    except OSError as error:
        return Settings(), (f"{path}: not read: {error.strerror}",)
    if len(data) > LIMIT:
        return Settings(), (f"{path}: not read: larger than {LIMIT >> 10} KiB",)
    try:
        return read_settings(data.decode(), str(path))
    except UnicodeDecodeError as error:
        return Settings(), (f"{path}: not read: no UTF-8 at byte {error.start}",)


def read_settings(text: str, source: str) -> tuple[Settings, tuple[str, ...]]:
    """Parse a settings file's text; pure."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Settings(), (f"{source}: not read: {error}",)
    problems: list[str] = []
    values: dict[str, object] = {}
    known = {setting.name: setting for setting in SETTINGS}
    for name, value in table.items():
        setting = known.get(name.replace("-", "_"))
        if name == "keys":
            values["keys"] = _keys(value, source, problems)
        elif setting is None:
            problems.append(f"{source}: skipped {name}: no such setting")
        elif not setting.check(value):
            problems.append(f"{source}: skipped {name} = {value!r}: takes {setting.takes}")
        else:
            values[setting.name] = float(value) if setting.name == "delay" and isinstance(value, int) else value
    return Settings(**values), tuple(problems)  # type: ignore[arg-type]


def _keys(value: object, source: str, problems: list[str]) -> dict[str, str]:
    if not isinstance(value, dict):
        problems.append(f"{source}: skipped keys: takes a table [keys]")
        return {}
    keys: dict[str, str] = {}
    for name, spelled in value.items():
        joined = ",".join(spelled) if isinstance(spelled, list) and all(isinstance(k, str) for k in spelled) else spelled
        if not isinstance(joined, str) or not joined.strip() or not joined.isprintable() or len(joined) > 100:
            problems.append(f"{source}: skipped keys.{name} = {spelled!r}: takes a key's name, as in ctrl+d")
        else:
            keys[name] = ",".join(key.strip() for key in joined.split(","))
    return keys


def key_clashes(keys: Mapping[str, str], defaults: Mapping[str, str], scopes: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The key map that can be used, and a line for each entry that is dropped.

    An entry is dropped when nothing has that name, or when its key already belongs to another name of the same scope (the
    one that keeps the key is the one the user set first, else the default)."""
    problems: list[str] = []
    good: dict[str, str] = {}
    for name, spelled in keys.items():
        if name not in defaults:
            problems.append(f"keys.{name}: nothing has that name")
            continue
        taken = {
            key: other
            for other, spelling in {**defaults, **good}.items()
            if other != name and scopes[other] == scopes[name] and (other in good or other not in keys)
            for key in spelling.split(",")
        }
        clash = [(key, taken[key]) for key in spelled.split(",") if key in taken]
        if clash:
            problems.extend(f"keys.{name} = {key!r}: already means {other}" for key, other in clash)
        else:
            good[name] = spelled
    return good, tuple(problems)


def defaults_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names with their default keys; several entries of one name are joined."""
    found: dict[str, str] = {}
    for name, keys in pairs:
        if keys:
            found[name] = f"{found[name]},{keys}" if name in found else keys
    return found
