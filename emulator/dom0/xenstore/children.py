"""The children of a node: a plain dict while they are few, and beyond that buckets, so that a change copies a few and not all.

Never changed in place. Their order is that of creation; one that is replaced keeps its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import Final, TypeVar

N = TypeVar("N")
_BUCKETS: Final = 64
_WIDE: Final = 128
"""From here on a directory has buckets. /local/domain, /vm and /libxl have an entry for every domain."""


class Wide(Mapping[str, N]):
    """`buckets` hold (age, child) by name."""

    __slots__ = ("_age", "_buckets", "_size")

    def __init__(self, buckets: tuple[dict[str, tuple[int, N]], ...], size: int, age: int) -> None:
        self._buckets, self._size, self._age = buckets, size, age

    def __getitem__(self, name: str) -> N:
        return self._buckets[hash(name) % _BUCKETS][name][1]

    def __contains__(self, name: object) -> bool:
        return name in self._buckets[hash(name) % _BUCKETS]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        aged = [(age, name) for name, (age, _) in chain.from_iterable(bucket.items() for bucket in self._buckets)]
        return iter([name for _, name in sorted(aged, key=itemgetter(0))])

    def put(self, name: str, child: N) -> Wide[N]:
        bucket = self._buckets[hash(name) % _BUCKETS]
        if name in bucket:
            return self._replace({**bucket, name: (bucket[name][0], child)}, name, self._size, self._age)
        return self._replace({**bucket, name: (self._age, child)}, name, self._size + 1, self._age + 1)

    def drop(self, name: str) -> Wide[N]:
        bucket = dict(self._buckets[hash(name) % _BUCKETS])
        del bucket[name]
        return self._replace(bucket, name, self._size - 1, self._age)

    def _replace(self, bucket: dict[str, tuple[int, N]], name: str, size: int, age: int) -> Wide[N]:
        at = hash(name) % _BUCKETS
        return Wide((*self._buckets[:at], bucket, *self._buckets[at + 1 :]), size, age)


def with_child(children: Mapping[str, N], name: str, child: N) -> Mapping[str, N]:
    """`children` with another one, or with another in the place of the one of that name."""
    if isinstance(children, Wide):
        return children.put(name, child)
    made = {**children, name: child}
    return made if len(made) < _WIDE else widened(made)


def without_child(children: Mapping[str, N], name: str) -> Mapping[str, N]:
    """`children` without one. Raises KeyError when it is not there."""
    if isinstance(children, Wide):
        return children.drop(name)
    made = dict(children)
    del made[name]
    return made


def widened(children: Mapping[str, N]) -> Wide[N]:
    buckets: tuple[dict[str, tuple[int, N]], ...] = tuple({} for _ in range(_BUCKETS))
    for age, (name, child) in enumerate(children.items()):
        buckets[hash(name) % _BUCKETS][name] = (age, child)
    return Wide(buckets, len(children), len(children))
