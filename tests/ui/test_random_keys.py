"""Some hundred steps of the soak (`python -m tests.soak.random_keys` runs it for ten minutes): no exception, whatever is pressed."""

from __future__ import annotations

import pytest

from tests.soak.random_keys import Soak

STEPS = 200


@pytest.mark.parametrize(("seed", "fake"), [(1, True), (2, False)])
async def test_random_keys(seed: int, fake: bool) -> None:
    soak = Soak(seed, fake=fake)
    try:
        await soak.run(steps=STEPS)
    except Exception as error:
        error.add_note(f"seed {seed}, life {soak.lives}, the last steps: {', '.join(soak.trail)}")
        raise
    assert soak.done.total() == STEPS and soak.lives
