"""Disks of guests: images on the host, and the threads that read and write them so that no domain's worker waits for a disk.

    create_overlay, clone   make an overlay over a base, in milliseconds whatever the size
    open_image              an image by its format, which is never guessed from what a guest may have written into it
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from emulator.dom0.storage.image import Image, Usage
from emulator.dom0.storage.overlay import OverlayImage
from emulator.dom0.storage.overlayfile import MAGIC, create_overlay
from emulator.dom0.storage.raw import RawImage
from emulator.dom0.storage.worker import DiskWorker, Done
from emulator.errors import UserError

FORMATS: Final = ("raw", "overlay")

__all__ = ["FORMATS", "DiskWorker", "Done", "Image", "OverlayImage", "RawImage", "Usage", "clone", "create_overlay", "open_base", "open_image"]


def open_image(path: str | Path, fmt: str, *, readonly: bool, base: str | Path | None = None, base_format: str = "raw",
               locked: bool = True) -> Image:  # fmt: skip
    """Open a disk. With `base` an overlay that does not exist yet is made over it, and one that does may lie over it wherever it is; without
    `locked` it is for looking only. Raises UserError."""
    if fmt == "overlay":
        if base is not None and not readonly and not os.path.exists(path):
            clone(base, path, base_format)
        return OverlayImage(path, readonly=readonly, locked=locked, named=base)
    if fmt != "raw":
        raise UserError(f"disk: format {fmt!r} is not known", where=str(path), fix=" or ".join(FORMATS))
    return RawImage(path, readonly=readonly, locked=locked)


def clone(base: str | Path, path: str | Path, base_format: str = "raw") -> None:
    """A new overlay at `path` with the contents of `base`, which must not change from now on. Raises UserError."""
    image = open_base(os.fsencode(base), base_format, 0)
    try:
        if base_format == "raw" and image.read(0, 512).startswith(MAGIC):
            raise UserError("this base looks like an overlay", where=str(base), fix="say baseformat=overlay, if no guest wrote that into it")
        create_overlay(path, base=base, base_format=base_format, base_size=image.size)
    finally:
        image.close()


def open_base(path: bytes, base_format: str, depth: int, *, locked: bool = True, named: str | Path | None = None) -> Image:
    """What an overlay lies over, read-only. `named` as in OverlayImage."""
    name = os.fsdecode(path)
    if base_format == "overlay":
        return OverlayImage(name, readonly=True, depth=depth, locked=locked, named=named)
    return RawImage(name, readonly=True, locked=locked)
