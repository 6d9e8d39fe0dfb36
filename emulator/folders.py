"""The user's own folders: XDG's base directories, each with what stands for it where the environment says nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from emulator.errors import UserError

Kind = Literal["config", "data", "state"]
_UNNAMED: Final[dict[Kind, str]] = {"config": ".config", "data": ".local/share", "state": ".local/state"}


def user_folder(kind: Kind, name: str, *, what: str, variable: str = "") -> Path:
    """xenconsole/NAME among the user's folders of that kind; it need not be there. `variable`: one of the environment that names another
    folder in its stead. Raises UserError, for `what`, where the user has no home."""
    if variable and (named := os.environ.get(variable, "")):
        return Path(named).absolute()
    base = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / _UNNAMED[kind]
    except RuntimeError as bad:
        fix = f"{variable}=/a/folder" if variable else f"XDG_{kind.upper()}_HOME=/a/folder"
        raise UserError(f"no folder for {what}", why=str(bad), fix=fix) from bad
    return root / "xenconsole" / name
