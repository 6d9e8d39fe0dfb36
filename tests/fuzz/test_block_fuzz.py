"""The block ring against hostile frontends: scripts that were kept, and new ones. A script that breaks something goes into corpus/block."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.block_script import Player

CORPUS = sorted((Path(__file__).parent / "corpus" / "block").glob("*.txt"))

numbers = st.one_of(st.integers(0, 80), st.sampled_from([2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**55, 2**55 - 1]))
small = st.one_of(st.integers(-70, 70), st.sampled_from([2**31, -(2**31), 2**32 - 1]))
grefs = st.one_of(st.integers(98, 145), st.sampled_from([0, 2**32 - 1]))
segments = st.lists(st.builds("{}:{}-{}".format, grefs, st.integers(0, 9), st.integers(0, 9)), max_size=11).map(" ".join)
good = st.lists(st.builds("{}:{}-{}".format, st.integers(110, 130), st.integers(0, 3), st.integers(3, 7)), min_size=1, max_size=4).map(" ".join)
hexes = st.binary(min_size=1, max_size=112).map(bytes.hex)
operations = st.one_of(st.sampled_from([0, 1, 3, 6]), st.integers(0, 255))
lines = st.one_of(
    st.builds("request {} {} {} {}".format, st.sampled_from([0, 1]), st.integers(0, 99), st.integers(0, 40), good),
    st.builds("request {} {} {} {}".format, operations, numbers, numbers, segments),
    st.builds("indirect {} {} {} {} {} {}".format, operations, numbers, numbers, st.one_of(st.integers(0, 70), st.just(65535)), grefs, segments),
    st.builds("discard {} {} {}".format, numbers, numbers, numbers),
    st.builds("raw {}".format, hexes),
    st.builds("change {} {}".format, st.integers(0, 127), hexes),
    st.builds("set {} {}".format, st.sampled_from(["req_prod", "req_event", "rsp_prod", "rsp_event"]), numbers.map(lambda n: n & 0xFFFFFFFF)),
    st.builds("jump {}".format, small),
    st.builds("scribble {} {} {}".format, st.integers(0, 39), st.integers(0, 4095), hexes),
    st.builds("{} {}".format, st.sampled_from(["revoke", "readonly", "grant"]), st.integers(100, 139)),
    st.sampled_from(["take", "now", "save"]),
    st.builds("finish {}{}".format, st.integers(0, 40), st.sampled_from(["", " fails"])),
)


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("persistent", [False, True], ids=["mapped-each-time", "persistent"])
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_scripts_that_were_kept(path: Path, pages: int, persistent: bool) -> None:
    """`# expect broken: WORDS`, `# expect refused: WORDS`: what the back end must have said in the end."""
    script, start = path.read_text(), time.process_time()
    played = Player(pages=pages, persistent=persistent).play(script)
    for line in script.splitlines():
        if line.startswith("# expect "):
            what, _, words = (word.strip() for word in line.removeprefix("# expect ").partition(":"))
            assert words in getattr(played, what), f"{what}: {getattr(played, what)!r}"
            assert words or not getattr(played, what)
    assert time.process_time() - start < 20, "no script is long"


@settings(max_examples=120, deadline=None)
@given(st.lists(lines, max_size=40).map("\n".join), st.sampled_from([1, 2, 4]), st.booleans(), st.booleans())
def test_whatever_a_frontend_does(script: str, pages: int, readonly: bool, persistent: bool) -> None:
    Player(pages=pages, readonly=readonly, persistent=persistent).play(script)


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 10
