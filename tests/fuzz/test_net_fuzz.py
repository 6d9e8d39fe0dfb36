"""The network back end against frontends that keep no rule: what was found worth keeping, and something new each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.net_machine import MOVE, MOVES, play

CORPUS = sorted((Path(__file__).parent / "corpus" / "net").iterdir())
REASONS = ("past rsp_prod", "is announced and is not there", "crosses its page", "extra info has type", "GSO of type",
           "gives no access", "is read-only", "is not granted", "more than 20 slots")  # fmt: skip
_SMALL = st.integers(0, 300)
_MOVE = st.builds(MOVE.pack, st.integers(0, 14), st.integers(0, 255), _SMALL | st.integers(0, 0xFFFF), _SMALL | st.integers(0, 0xFFFFFFFF))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus(path: Path) -> None:
    play(path.read_bytes())


def test_the_corpus_closes_interfaces_for_every_reason() -> None:
    """It has not gone stale: it still gets as far as each of the checks."""
    told = " ".join(said for path in CORPUS for said in play(path.read_bytes()).side.said)
    missing = [why for why in REASONS if why not in told]
    assert not missing


@settings(max_examples=150, deadline=None)
@given(st.lists(_MOVE, max_size=MOVES))
def test_a_hostile_frontend_harms_itself_alone(moves: list[bytes]) -> None:
    play(b"".join(moves))
