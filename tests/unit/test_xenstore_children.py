"""A node's children, few or many, against a dict that is copied whole."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from emulator.dom0.xenstore.children import Wide, widened, with_child, without_child

NAMES = st.integers(0, 40).map(str)


@given(st.lists(st.tuples(NAMES, st.none() | st.integers()), max_size=80), st.booleans())
def test_they_are_what_a_dict_would_be_and_no_change_shows_in_what_was(steps: list[tuple[str, int | None]], wide: bool) -> None:
    model: dict[str, int] = {}
    real: Mapping[str, int] = widened(model) if wide else model
    history: list[tuple[Mapping[str, int], list[tuple[str, int]]]] = []
    for name, value in steps:
        history.append((real, list(model.items())))
        model = dict(model)
        if value is not None:
            model[name] = value
            real = with_child(real, name, value)
        elif name in model:
            del model[name]
            real = without_child(real, name)
        assert (list(real.items()), len(real), real.get(name), name in real) == (list(model.items()), len(model), model.get(name), name in model)
    assert all(list(then.items()) == items for then, items in history)


def test_many_are_kept_in_buckets_in_the_order_they_came() -> None:
    children: Mapping[str, int] = {}
    for number in range(1000):
        children = with_child(children, str(number), number)
    assert isinstance(children, Wide) and list(children.values()) == list(range(1000))
    children = without_child(with_child(children, "5", -5), "7")
    assert list(children)[4:8] == ["4", "5", "6", "8"] and children["5"] == -5 and len(children) == 999
