"""What holds for tests that drive real guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.patience import PATIENCE_SECONDS


@pytest.fixture(scope="session", autouse=True)
def _patient() -> Iterator[None]:
    """libxl gives a guest ten seconds to let a device go: enough for people, not for a machine that stands still for some of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emulator.dom0.turns.LET_GO_SECONDS", PATIENCE_SECONDS)
        yield
