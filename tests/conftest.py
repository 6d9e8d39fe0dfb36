"""What holds for every test: the environment is the suite's own, and whatever was drawn by lot is drawn alike each time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A run tells whether a change broke something, so it tries the same examples each time, however slow the machine is.
# `make test ARGS=--hypothesis-profile=explore` looks for new ones; what it finds becomes an @example.
settings.register_profile("suite", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_OTHERS = ("XENSTORED_PATH", "XENCONSOLE_CONFIG", "XENCONSOLE_DISKS", "XENCONSOLE_DUMPS", "TMUX", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
"""Variables that programs under test heed, and that somebody's shell may have set."""


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No file of the user who runs the tests is read or written, and no other engine's xenstore is spoken to."""
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in _OTHERS:
            patch.delenv(name, raising=False)
        for name in ("CONFIG", "STATE", "DATA"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # who runs the suite in the background has them ignored, in what it starts, too
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        yield
