"""The wheel works away from the checkout: it carries its themes and guests, and nothing lands beside its packages."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS

pytest.importorskip("hatchling")

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Without a PYTHONPATH, which may name the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, input=typed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    built = run(*pip, cwd=folder)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and sees the locked dependencies, but not the checkout."""
    home = tmp_path_factory.mktemp("outside")
    made = run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    assert made.returncode == 0, made.stderr
    python = home / "venv/bin/python"
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    assert done.returncode == 0, done.stderr
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).stdout.strip())
    # A path that a .pth file names is searched, but the .pth files in it (the checkout's among them) are not read.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    return home


def test_the_wheel_holds_two_packages_and_the_data_inside_one_of_them(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"xenconsole", "emulator"}
    assert any(name.startswith("xenconsole/data/themes/") for name in names)
    assert any(name.startswith("xenconsole/data/guests/") and name.endswith(".cfg") for name in names)
    assert not [name for name in names if name.endswith((".c", ".S", ".h"))]
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_command_runs_outside_of_the_checkout(installed: Path) -> None:
    told = run(installed / "venv/bin/xenconsole", "--version", cwd=installed)
    assert told.returncode == 0, told.stderr
    script = "import xenconsole, emulator; print(xenconsole.__file__, emulator.__file__)"
    where = run(installed / "venv/bin/python", "-c", script, cwd=installed)
    assert str(ROOT) not in where.stdout
    assert str(installed) in where.stdout


def test_a_guest_of_the_wheel_boots_outside_of_the_checkout(installed: Path) -> None:
    shell = next(installed.glob("venv/lib/python*/site-packages/xenconsole/data/guests/shell.cfg"))
    booted = run(installed / "venv/bin/xenconsole", "create", "-c", shell, cwd=installed, typed="echo from the wheel\npoweroff\n")
    assert (booted.returncode, booted.stderr) == (0, "")
    assert "\nfrom the wheel\n" in booted.stdout and booted.stdout.endswith("powering off\n")
