"""The table that a run prints, and its place in docs/PERFORMANCE.md."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PERFORMANCE = ROOT / "docs" / "PERFORMANCE.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Row:
    """One measurement. `ratio` is ours against theirs, such that less is better for times and more for speeds."""

    bench: str
    what: str
    ours: str
    theirs: str
    ratio: float | None = None
    goal: str = ""

    def cells(self) -> tuple[str, ...]:
        return (self.bench, self.what, self.ours, self.theirs, "" if self.ratio is None else f"{self.ratio:.2f}", self.goal)


HEADER = ("name", "what", "here", "against", "ratio", "goal")


def render(rows: list[Row]) -> str:
    """The rows as a Markdown table whose columns line up."""
    table = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADER))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def circumstances() -> str:
    """Date, commit, processor, Python and how busy the machine is (a neighbour makes every figure worse) of this run."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = model.group(1) if model else platform.machine()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    where = f"{os.cpu_count()} × {processor}, Python {platform.python_version()}"
    return f"{today}, commit {commit or 'unknown'}, {where}, load {os.getloadavg()[2]:.1f}"


def write(rows: list[Row]) -> None:
    """Replaces what this run measured in docs/PERFORMANCE.md; the rest stays, under the circumstances of its own run."""
    head, _, rest = PERFORMANCE.read_text().partition(BEGIN)
    kept, _, tail = rest.partition(END)
    blocks = {match[1]: match[0].strip() for match in re.finditer(r"(?ms)^### `(\w+)`.*?(?=^### |\Z)", kept)}
    for bench in dict.fromkeys(row.bench for row in rows):
        mine = [row for row in rows if row.bench == bench]
        blocks[bench] = f"### `{bench}`\n\n{circumstances()}\n\n{render(mine)}"
    PERFORMANCE.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(blocks.values()) + f"\n\n{END}{tail}")
