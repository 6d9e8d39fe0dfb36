"""Numbers as people read them: few digits, always a unit or a header that names it, cut to a width in terminal cells."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

BRAILLE = 0x2800
_OFFSET = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})([kKmMgGtT]?)")
_LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)


def amount(value: float) -> str:
    """A count in at most 4 characters: 0, 0.4, 12, 999, 5.2k, 48k, 1.3M."""
    if value < 0.05:
        return "0"
    if value < 9.95:
        return f"{value:.1f}"
    if value < 999.5:
        return f"{value:.0f}"
    for unit in "kMGT":
        value /= 1000
        if value < 9.95:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
    return "lots"


def counted(count: int, word: str) -> str:
    """A count with its word, in the plural where it is not one."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def tally(count: int) -> str:
    """A count in full while it fits into 9 cells, else shortened."""
    return f"{count:,}" if count < 10_000_000 else amount(count)


def size(kib: float, *, long: bool = False) -> str:
    """Memory: 512K, 256M, 2.0G; long: 256 MiB."""
    for unit in "KMGTP":
        if kib < 1024 or unit == "P":
            break
        kib /= 1024
    digits = f"{kib:.1f}" if kib < 10 and kib != int(kib) else f"{kib:.0f}"
    return f"{digits} {unit}iB" if long else f"{digits}{unit}"


def byte_rate(per_second: float, *, long: bool = False) -> str:
    """Bytes per second: 0, 87, 1.2K; long: 1.2 KiB/s."""
    if per_second < 0.5:
        return "0"
    if per_second < 1000:
        return f"{per_second:.0f} B/s" if long else f"{per_second:.0f}"
    for unit in "KMGTP":
        per_second /= 1024
        if per_second < 1000 or unit == "P":
            break
    digits = f"{per_second:.1f}" if per_second < 9.95 else f"{per_second:.0f}"
    return f"{digits} {unit}iB/s" if long else f"{digits}{unit}"


def micros(value: float) -> str:
    """A latency, given in microseconds: 87 µs, 12 ms, 3.4 s."""
    if value < 9_950:
        return f"{value:.0f} µs"
    return f"{value / 1000:.0f} ms" if value < 995_000 else f"{value / 1e6:.1f} s"


def span(seconds: float) -> str:
    """A length of time in words: 42 s, 3 min, 2 h 05 min, 4 d 3 h."""
    whole = int(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def clock(seconds: float) -> str:
    """CPU time as top shows it: 0:07.3, 12:41.0, 3h12:41."""
    if seconds < 3600:
        tenths = int(seconds * 10)
        return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
    whole = int(seconds)
    return f"{whole // 3600}h{whole // 60 % 60:02d}:{whole % 60:02d}"


def braille(points: Sequence[float], width: int, top: float) -> str:
    """A history line of `width` cells, two points a cell, newest at the right; `top` fills the cell."""
    wanted = width * 2
    levels = [min(4, int(p / top * 4 + 0.999)) if p > 0.005 * top else 0 for p in points[-wanted:]] if top > 0 else []
    levels = [0] * (wanted - len(levels)) + levels
    return "".join(chr(BRAILLE | _LEFT[levels[i]] | _RIGHT[levels[i + 1]]) for i in range(0, wanted, 2)).replace(chr(BRAILLE), " ")


def gauge(share: float, width: int) -> tuple[str, str]:
    """A gauge of `width` cells in two parts: the filled and the empty one, told apart without colour."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    if share > 0.004 and filled == 0 and width:
        filled = 1
    return "━" * filled, "┄" * (width - filled)


def printable(text: str) -> str:
    """Text that cannot steer a terminal: every character that is not printable becomes a middle dot."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` cells: padded, or cut with an ellipsis."""
    if width <= 0:
        return ""
    length = cell_len(text)
    if length == width:
        return text
    if length < width:
        pad = " " * (width - length)
        return pad + text if right else text + pad
    return set_cell_size(text, width - 1) + "…"


def from_home(path: str) -> str:
    """A path as a shell's prompt has it: ~ for the user's own folder."""
    home = os.path.expanduser("~").rstrip("/")
    return f"~{path.removeprefix(home)}" if home and f"{path}/".startswith(f"{home}/") else path


def offset_of(text: str) -> int:
    """Bytes from `0x1c00`, `7168`, `7k`, `10M`; -1 for anything else."""
    match = _OFFSET.fullmatch(text.strip())
    return int(match.group(1), 0 if match.group(1)[:2] in ("0x", "0X") else 10) << 10 * " kmgt".index(match.group(2).lower() or " ") if match else -1
