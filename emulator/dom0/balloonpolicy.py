"""Which domain gives memory and which gets some: a decision a round, sans-I/O.

What is looked at is how much of its memory each guest says is free. A domain is hungry below HUNGRY of its target, idle above
IDLE; what changes hands leaves a giver KEPT and brings a taker to WANTED, both between the two, so that no step calls for the next one back.
A state must be seen twice, and a domain that has not reached its last target is left alone. Idle domains give only when the hungry want
more than the pool has free, and what they give is dealt out when it has arrived there: the pool is never overcommitted. A guest that says nothing is
neither; one that lies gets no more than its configuration allows and can take no domain below its least."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HUNGRY, WANTED, KEPT, IDLE = 0.10, 0.20, 0.25, 0.35
_LOOKS: Final = 2
_GRAIN_KIB: Final = 1024
_STEP: Final = 0.25
"""Of its target a domain gives or gets at once, at most."""


@dataclass(frozen=True, slots=True)
class Member:
    """A domain as a round sees it, in KiB. `owned`: what it has now; `free`: what its guest says is free of it, None when it says nothing."""

    domid: int
    least: int
    most: int
    target: int
    owned: int
    free: int | None


@dataclass(frozen=True, slots=True)
class Order:
    domid: int
    target: int


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """Whether the policy is at work, and every domain with its name as the next round would see it."""

    on: bool
    members: tuple[tuple[str, Member], ...]


class BalloonPolicy:
    """Keeps how often each domain was seen hungry or idle in a row."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}  # rounds: below zero hungry, above idle

    def decide(self, members: Iterable[Member], pool_free: int) -> list[Order]:
        """New targets, givers first. Sum of what is given out is at most `pool_free` (KiB)."""
        judged = [(member, self._judge(member)) for member in members]
        self._seen = {member.domid: rounds for member, rounds in judged}
        wants = sorted(((self._wanted(member), member) for member, rounds in judged if rounds <= -_LOOKS), key=lambda pair: -pair[0])
        orders = self._collect([member for member, rounds in judged if rounds >= _LOOKS], sum(want for want, _member in wants) - pool_free)
        for want, member in wants:
            more = min(want, pool_free) // _GRAIN_KIB * _GRAIN_KIB
            if more > 0:
                pool_free -= more
                orders.append(Order(member.domid, member.target + more))
        return orders

    def _judge(self, member: Member) -> int:
        before = self._seen.get(member.domid, 0)
        if member.free is None or member.owned != member.target:
            return 0
        if member.free < HUNGRY * member.target:
            return min(before, 0) - 1
        return max(before, 0) + 1 if member.free > IDLE * member.target else 0

    @staticmethod
    def _wanted(member: Member) -> int:
        """What would make WANTED of it free; the hungriest come first by what they lack."""
        assert member.free is not None
        lacking = (WANTED * member.target - member.free) / (1 - WANTED)
        return int(min(max(lacking, _GRAIN_KIB), _STEP * member.target, member.most - member.target))

    @staticmethod
    def _collect(idle: list[Member], wanted: int) -> list[Order]:
        """Orders to the idlest, until what is wanted will come."""
        orders = []
        for member in sorted(idle, key=lambda member: -(member.free or 0) / member.target):
            if wanted <= 0:
                break
            assert member.free is not None
            surplus = (member.free - KEPT * member.target) / (1 - KEPT)
            less = int(min(surplus, _STEP * member.target, member.target - member.least, wanted + _GRAIN_KIB)) // _GRAIN_KIB * _GRAIN_KIB
            if less > 0:
                wanted -= less
                orders.append(Order(member.domid, member.target - less))
        return orders
