"""The house rules: what is locked, which way the arrows run, how long a file may grow, which promises are held."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.txt", "requirements-dev.txt")
MAX_LINES = 400


def sources() -> list[Path]:
    folders = ("emulator", "xenconsole", "guests", "tests")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def pins(name: str) -> dict[str, str]:
    """What a lock file pins: package to version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_holds_no_address(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_pins_every_direct_dependency_and_its_hashes(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    if name == "requirements-dev.txt":
        wanted += project["optional-dependencies"]["dev"]
    pinned = pins(name)
    for requirement in wanted:
        package, exact = re.match(r"([a-z0-9-]+)(?:==(\S+))?", requirement).groups()  # type: ignore[union-attr]
        assert package in pinned, f"{requirement} is not locked: make lock"
        assert exact is None or pinned[package] == exact


def test_both_locks_agree() -> None:
    runtime, everything = pins("requirements.txt"), pins("requirements-dev.txt")
    assert runtime.items() <= everything.items()


def test_no_source_file_passes_400_lines() -> None:
    long = {str(path.relative_to(ROOT)): lines for path in sources() if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_every_promise_names_tests_that_exist() -> None:
    table = [line for line in (ROOT / "docs/PROMISES.md").read_text().splitlines() if line.startswith("| ")]
    rows = table[1:]
    assert rows
    for row in rows:
        named = re.findall(r"`(tests/[^`]+)`", row)
        assert named, f"no test holds: {row}"
        for name in named:
            path, _, function = name.partition("::")
            assert (ROOT / path).is_file(), f"{path} of {row}"
            assert not function or f"def {function}(" in (ROOT / path).read_text(), f"{name} of {row}"


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["mypy"], ["lint-imports"]],
    ids=["style", "types", "imports"],
)
def test_the_checker_is_content(command: list[str]) -> None:
    """Style, strict types and import contracts are part of the tests' command."""
    tool = Path(sys.executable).parent / command[0]
    done = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
