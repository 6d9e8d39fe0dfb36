"""Colour themes: small TOML files, validated here and turned into Textual's themes.

    name = "dark"            # lower case letters, digits, '-'
    dark = true
    ansi = false             # true: colours are the terminal's own palette (ansi_red, ansi_default, …)
    [colors]                 # Textual's base colours; primary, foreground, background, surface, panel are needed
    [variables]              # the console's own; each has a default made from the base colours

A broken file is named with what is wrong in it, and skipped. Files of the user's folder come after the program's own, so a
theme of the same name replaces it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from textual.color import Color, ColorParseError
from textual.theme import Theme

from xenconsole.resources import config_folder, data_folder

COLORS = (
    "primary",
    "secondary",
    "accent",
    "foreground",
    "background",
    "surface",
    "panel",
    "success",
    "warning",
    "error",
    "boost",
)
NEEDED = ("primary", "foreground", "background", "surface", "panel")
LIMIT = 1 << 16

VARIABLES: Mapping[str, str] = {
    "state-running": "success",
    "state-blocked": "foreground",
    "state-paused": "warning",
    "state-down": "secondary",
    "state-crashed": "error",
    "graph": "primary",
    "graph-low": "secondary",
    "graph-high": "warning",
    "ok": "success",
    "notice": "warning",
    "trouble": "error",
    "dim": "secondary",
    "rule": "panel",
    "mark": "accent",
    "cursor-row": "panel",
    "changed": "accent",
}
"""Our variables, each with the base colour it takes when a theme does not set it."""

_FALLBACK = {"secondary": "primary", "accent": "primary", "success": "primary", "warning": "primary", "error": "primary"}


@dataclass(frozen=True)
class ThemeFile:
    """A theme that was read well."""

    theme: Theme
    source: Path


class ThemeError(ValueError):
    """What is wrong in a theme file, in words."""


def parse_theme(text: str) -> Theme:
    """A theme from its file's text. Raises ThemeError naming the first thing that is wrong."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ThemeError(str(error)) from error
    name = table.pop("name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise ThemeError("name must be lower case letters, digits and '-'")
    dark, ansi = table.pop("dark", True), table.pop("ansi", False)
    if not isinstance(dark, bool) or not isinstance(ansi, bool):
        raise ThemeError("dark and ansi take true or false")
    table.pop("title", None)
    colors = _colors("colors", table.pop("colors", {}), COLORS)
    variables = _colors("variables", table.pop("variables", {}), tuple(VARIABLES))
    if table:
        raise ThemeError(f"{next(iter(table))}: no such entry")
    for needed in NEEDED:
        if needed not in colors:
            raise ThemeError(f"colors.{needed} is missing")
    for color, fallback in _FALLBACK.items():
        colors.setdefault(color, colors[fallback])
    own = {variable: variables.get(variable, colors[base]) for variable, base in VARIABLES.items()}
    own.update(_derived(colors, own))
    if ansi:
        own.update(_ANSI)
    return Theme(name=name, dark=dark, ansi=ansi, variables=own, luminosity_spread=0.1, text_alpha=1.0, **colors)


_ANSI: Mapping[str, str] = {
    "ansi-background": "ansi_black",
    "ansi-foreground": "ansi_white",
    "block-cursor-background": "ansi_blue",
    "block-cursor-foreground": "ansi_bright_white",
    "input-cursor-background": "ansi_white",
    "input-cursor-foreground": "ansi_black",
    "input-selection-background": "ansi_blue",
    "input-selection-foreground": "ansi_bright_white",
    "screen-selection-background": "ansi_blue",
    "screen-selection-foreground": "ansi_bright_white",
}
"""What Textual's widgets need besides where colours cannot be mixed."""


def _derived(colors: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Textual's own variables, set so that its widgets look like ours."""
    return {
        "footer-background": colors["background"],
        "footer-foreground": own["dim"],
        "footer-description-foreground": own["dim"],
        "footer-description-background": colors["background"],
        "footer-key-foreground": colors["primary"],
        "footer-key-background": colors["background"],
        "footer-item-background": colors["background"],
        "scrollbar": own["rule"],
        "scrollbar-hover": own["dim"],
        "scrollbar-active": colors["primary"],
        "scrollbar-background": colors["background"],
        "scrollbar-background-hover": colors["background"],
        "scrollbar-background-active": colors["background"],
        "scrollbar-corner-color": colors["background"],
        "border": colors["primary"],
        "border-blurred": own["rule"],
        "input-cursor-background": colors["foreground"],
        "input-cursor-foreground": colors["background"],
        "block-cursor-background": own["cursor-row"],
        "block-cursor-foreground": colors["foreground"],
        "block-cursor-text-style": "bold",
    }


def _colors(part: str, table: object, allowed: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ThemeError(f"{part} must be a table")
    for name, value in table.items():
        if name not in allowed:
            raise ThemeError(f"{part}.{name}: no such colour")
        if not isinstance(value, str):
            raise ThemeError(f'{part}.{name} must be a colour, as in "#a0b0c0"')
        try:
            Color.parse(value)
        except ColorParseError as error:
            raise ThemeError(f"{part}.{name}: {value!r} is no colour") from error
    return dict(table)


def theme_folders() -> tuple[Path, ...]:
    """Where themes are looked for, the user's last."""
    return (data_folder("themes"), config_folder() / "themes")


def stamp(folders: tuple[Path, ...]) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a theme file changes, comes or goes."""
    found = []
    for folder in folders:
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def load_themes(folders: tuple[Path, ...]) -> tuple[dict[str, ThemeFile], tuple[str, ...]]:
    """All good themes by name, and one line for each file that was skipped."""
    themes: dict[str, ThemeFile] = {}
    problems: list[str] = []
    for folder in folders:
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            try:
                with path.open("rb") as file:
                    data = file.read(LIMIT + 1)
                if len(data) > LIMIT:
                    raise ThemeError(f"larger than {LIMIT >> 10} KiB")
                theme = parse_theme(data.decode())
            except (ThemeError, OSError, UnicodeDecodeError) as error:
                problems.append(f"theme {path} skipped: {error}")
            else:
                themes[theme.name] = ThemeFile(theme, path)
    return themes, tuple(problems)
