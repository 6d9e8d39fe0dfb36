"""Where the data that travels with the program lies: the checkout's own folders first, else the installed package's data."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from emulator.folders import user_folder

DEMO = ("hello", "counter", "shell")
"""The guests that a bare `xenconsole` opens with."""


def data_folder(name: str) -> Path:
    """The folder `themes` or `guests`; it may be missing in a broken installation, which the caller reports."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    return Path(str(files("xenconsole").joinpath("data", name)))


def config_folder() -> Path:
    """The user's own folder: $XDG_CONFIG_HOME/xenconsole, ~/.config/xenconsole without it."""
    return user_folder("config", "", what="settings")


def demo_files() -> list[Path]:
    """The demo guests' cfg files, found in guests/NAME.cfg or guests/NAME/NAME.cfg."""
    folder = data_folder("guests")
    found = []
    for name in DEMO:
        nested = folder / name / f"{name}.cfg"
        found.append(nested if nested.is_file() else folder / f"{name}.cfg")
    return found


def cfg_files() -> list[Path]:
    """Every cfg file that comes with the program, for completion."""
    folder = data_folder("guests")
    return sorted({*folder.glob("*.cfg"), *folder.glob("*/*.cfg")}) if folder.is_dir() else []
