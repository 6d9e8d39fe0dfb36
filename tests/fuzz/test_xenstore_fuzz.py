"""Hostile guests and tools against the store: no exception, quotas kept, accounts right, nothing seen that may not be. The corpus
holds what is worth trying each time; Hypothesis tries more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.dom0.xenstore import wire
from tests.fuzz.xenstore_play import CLIENTS, Act, Play

CORPUS = sorted((Path(__file__).parent / "corpus" / "xenstore").glob("*.json"))

_paths = st.sampled_from([
    "data", "data/a", "data/a/b", "data/" + "n" * 400, "data" + "/d" * 62, "name", "/", "", "@releaseDomain", "@introduceDomain", "@x",
    "/local/domain/2/data/private",
    "/local/domain/2", "/local/domain/1/data", "data//a", "data/", "x y", "/tool/t", "attr", "control/shutdown", "\xff",
])  # fmt: skip
_values = st.one_of(st.sampled_from(["", "v", "x" * 2000, "x" * 4000]), st.text(st.characters(max_codepoint=255), max_size=20))
_perms = st.lists(st.sampled_from(["n0", "b1", "r2", "w1", "n1", "b99", "r32767", "r32752", "z1", "r", ""]), max_size=7).map("\0".join)
_words = st.one_of(
    _paths,
    _values,
    _perms,
    st.sampled_from(["T", "F", "0", "1", "2", "77", "help", "quota", "set", "nodes", "300", "check", "memreport", "print", "log", "on", "off"]),
)
_payload = st.one_of(
    _paths.map(lambda path: path + "\0"),
    st.tuples(_paths, _values).map("\0".join),
    st.tuples(_paths, _perms).map(lambda two: "\0".join(two) + "\0"),
    st.lists(_words, max_size=5).map(lambda words: "".join(word + "\0" for word in words)),
    _values,
)
_kind = st.one_of(st.integers(0, 23), st.sampled_from([wire.XS_WRITE, wire.XS_WATCH, wire.XS_TRANSACTION_START, wire.XS_TRANSACTION_END]))
_tx = st.one_of(st.just(0), st.integers(0, 12), st.just(0xFFFFFFFF))


def _message(kind: int, tx: int, payload: str) -> str:
    data = payload.encode("latin-1", "replace")[: wire.XENSTORE_PAYLOAD_MAX]
    return wire.message(kind, 1, tx, data).decode("latin-1")


_bytes = st.one_of(
    st.builds(_message, _kind, _tx, _payload),
    st.builds(_message, _kind, _tx, _payload).map(lambda text: text * 30),
    st.builds(lambda text, cut: text[:cut], st.builds(_message, _kind, _tx, _payload), st.integers(0, 40)),
    st.text(st.characters(max_codepoint=255), max_size=60),
)
_acts: st.SearchStrategy[Act] = st.one_of(
    st.tuples(st.just("ring"), _bytes),
    st.tuples(st.just("ring"), _bytes),
    st.tuples(st.just("client"), st.integers(0, CLIENTS - 1), _bytes),
    st.tuples(st.just("read"), st.sampled_from([1, 16, 1024])),
    st.tuples(st.just("drain"), st.integers(0, CLIENTS - 1)),
    st.tuples(st.just("hang-up"), st.integers(0, CLIENTS - 1)),
    st.tuples(st.just("index"), st.sampled_from(["req_prod", "rsp_cons", "req_cons", "rsp_prod", "connection"]),
              st.one_of(st.integers(0, 2100), st.integers(0, 0xFFFFFFFF))),
    st.tuples(st.just("toolstack"), st.sampled_from(["restart", "shut down", "let go", "introduce", "save and load"])),
)  # fmt: skip


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: str(path.stem))
def test_the_corpus(path: Path) -> None:
    Play().run(json.loads(path.read_text()))


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 12


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_acts, max_size=40))
def test_whatever_guests_and_tools_send(acts: list[Act]) -> None:
    Play().run(acts)
