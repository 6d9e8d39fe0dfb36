"""Grants are state like any other: saved with the frames' uses, and loaded with them."""

from __future__ import annotations

import numpy as np

from tests.unit.domains import SPARE, tiny


def test_state_with_grants_survives_saving() -> None:
    with tiny() as guest:
        grants = guest.domain.grants
        grants.seed(1, 0, guest.mfn(SPARE))
        grants.map(1, 0, True, (1,))
        frames, table = guest.domain.frames.save(), grants.save()
        grants.unmap(1, (1,))
        guest.domain.frames.load(frames)
        grants.load(table)
        assert grants.active[1].written and guest.domain.frames.count[guest.mfn(SPARE)] == 2
        assert np.array_equal(guest.domain.frames.tally, np.frombuffer(frames[1], dtype=np.int32))
