"""Who shares what with whom: event channels and grants between every two domains.

Each domain is asked by itself, between two of its slices. One that has had no turn since it was asked last has changed nothing and is
not asked again, and only so many are asked at once: a thousand busy domains cost no more than a few, and are seen a little later.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Final

from emulator.control.views import LinkView
from emulator.dom0.guest import Guest
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.events import INTERDOMAIN, UNBOUND

MOST_ASKED: Final = 64
MOST_PEERS: Final = 256
"""Peers told of one domain: a grant table can name every domain ID there is."""
_PATIENCE_S: Final = 1.0


@dataclass(frozen=True)
class _Answer:
    """What a domain said, and how many turns it had had by then."""

    turns: int
    links: tuple[LinkView, ...]


class Links:
    """The last answers of all domains."""

    def __init__(self) -> None:
        self._answers: dict[int, _Answer] = {}

    def gather(self, guests: Sequence[Guest]) -> tuple[LinkView, ...]:
        """The links of all `guests`; of those that do not answer in time, or whose turn to be asked has not come, the last known."""
        answers = {guest.domid: self._answers[guest.domid] for guest in guests if guest.domid in self._answers}
        stale = [guest for guest in guests if guest.domid not in answers or answers[guest.domid].turns != guest.turns]
        stale.sort(key=lambda guest: answers[guest.domid].turns - guest.turns if guest.domid in answers else -(1 << 62))
        asked = [(guest.domid, _ask(guest)) for guest in stale[:MOST_ASKED]]
        deadline = time.monotonic() + _PATIENCE_S
        for domid, future in asked:
            try:
                answers[domid] = future.result(max(0.0, deadline - time.monotonic()))
            except (CancelledError, TimeoutError):
                continue  # gone meanwhile, or too busy: what was known stands
        self._answers = answers
        return tuple(link for domid in sorted(answers) for link in answers[domid].links)


def _ask(guest: Guest) -> Future[_Answer]:
    return guest.domain.ask(lambda: _Answer(guest.turns + 1, links_of(guest.domain)))  # the turn of the question is not counted yet


def links_of(domain: Domain) -> tuple[LinkView, ...]:
    """What `domain` shares with each other domain and with itself. A question of the domain."""
    events, grants = domain.events, domain.grants
    channels: dict[int, list[int]] = {}  # ports, awaiting, pending, events
    for number, port in events.ports.items():
        if port.kind in (INTERDOMAIN, UNBOUND):
            sums = channels.setdefault(port.remote_domain, [0, 0, 0, 0])
            sums[0 if port.kind == INTERDOMAIN else 1] += 1
            sums[2] += events.pending(number)
            sums[3] += port.count
    used: dict[int, int] = {}
    for active in grants.active.values():
        if active.pinned:
            used[active.domid] = used.get(active.domid, 0) + 1
    mapped: dict[int, int] = {}
    for mapping in domain.mappings.handles.values():
        whose = domain.domid if mapping.peer is None else mapping.domid
        mapped[whose] = mapped.get(whose, 0) + 1
    given = grants.granted()
    peers = sorted({*channels, *used, *mapped}) + sorted(given.keys() - channels.keys() - used.keys() - mapped.keys())
    links = []
    for peer in peers[:MOST_PEERS]:
        ports, awaiting, pending, sent = channels.get(peer, (0, 0, 0, 0))
        links.append(LinkView(domain.domid, peer, ports, awaiting, pending, sent, given.get(peer, 0), used.get(peer, 0), mapped.get(peer, 0)))
    return tuple(links)
