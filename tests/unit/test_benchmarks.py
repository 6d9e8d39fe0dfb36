"""What the benchmarks stand on: the archive that Linux unpacks, the table that is kept, and bare Unicorn as a yardstick."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.benchmarks import bare, table
from tests.benchmarks.kit import LOOPS
from tests.benchmarks.linux import cpio
from tests.benchmarks.paper import curve
from tests.benchmarks.table import Row


def test_the_archive_holds_its_files_and_their_folders(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed")
    subprocess.run(["cpio", "-id", "--quiet"], input=cpio({"bench/user": b"abcde", "top": b""}), cwd=tmp_path, check=True)
    assert (tmp_path / "bench/user").read_bytes() == b"abcde"
    assert (tmp_path / "top").read_bytes() == b""


def test_a_table_that_is_written_keeps_what_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "PERFORMANCE.md"
    kept.write_text(f"# Performance\n\n{table.BEGIN}\nNot measured yet.\n{table.END}\n\nThe end.\n")
    monkeypatch.setattr(table, "PERFORMANCE", kept)
    table.write([Row("boot", "first", "1 s", "2 s", 0.5), Row("echo", "keys", "3 ms", "")])
    table.write([Row("boot", "second", "1 s", "4 s", 0.25)])
    text = kept.read_text()
    assert "second" in text and "0.25" in text and "keys" in text
    assert "first" not in text and "Not measured" not in text
    assert text.startswith("# Performance\n") and text.endswith("\n\nThe end.\n")
    assert text.count("### `boot`") == 1


def test_the_loops_run_to_their_end_on_bare_unicorn() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    for loop in LOOPS:
        assert bare.seconds(loop, 10_000) > 0


def test_the_papers_scaling_curve_is_drawn_from_its_rows() -> None:
    rows = [Row("scaling", f"{count} domains at 5 ms: throughput lost", lost, "") for count, lost in ((8, "2.0 %"), (128, "-1.0 %"))]
    picture = ElementTree.fromstring(curve(rows))
    assert len(picture.findall("{*}polyline")) == 1 and len(picture.findall("{*}polyline")[0].get("points", "").split()) == 3
    with pytest.raises(ValueError, match="no rows"):
        curve([])
