"""Fixtures of the console's tests: no user's files, one time zone, and a pause that ends when the app has really come to rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TIMERS_SECONDS = 1 / 50
"""Longer than a screen's repaint waits."""
MOST_TURNS = 20_000
"""Of the event loop, for an app that is never at rest, as one that shows a flood."""


async def _at_rest(min_sleep: float = 0.0, max_sleep: float = 0.0) -> None:
    """In the place of Textual's own wait, which ends when the process has used no CPU for a moment: on a loaded machine that may be
    because it got none. This ends when the event loop has nothing more to do than to wait."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(TIMERS_SECONDS)
    quiet = 0
    for _ in range(MOST_TURNS):
        quiet = 0 if loop._ready else quiet + 1  # type: ignore[attr-defined]
        if quiet == 3:
            return
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XENCONSOLE_CONFIG", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr("textual.pilot.wait_for_idle", _at_rest)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
