"""What every two domains share, as the matrix shows it."""

from __future__ import annotations

import struct
from concurrent.futures import Future
from typing import Any, cast

from emulator.abi import grant_table as abi
from emulator.abi.xen import EVTCHNOP_alloc_unbound
from emulator.control.links import MOST_ASKED, MOST_PEERS, Links, links_of
from emulator.control.views import LinkView
from emulator.dom0.guest import Guest
from emulator.hypervisor.events import INTERDOMAIN, Port
from tests.unit.domains import DATA, SPARE
from tests.unit.granters import map_across, pair, settle


def test_ports_and_grants_are_counted_by_the_far_end() -> None:
    with pair() as (one, two):
        events = one.domain.events
        disk = events.allocate(Port(INTERDOMAIN, backend="vbd-51712"))
        events.allocate(Port(INTERDOMAIN, backend="console"))
        events.set_pending(disk)
        argument = one.put(DATA, struct.pack("<HHI", 0x7FF0, 2, 0))
        assert one.call("event_channel_op", EVTCHNOP_alloc_unbound, argument) == 0
        for ref in (9, 10, 11):
            one.grant(ref, SPARE, 2)
        assert map_across(two, one, 10)[0] == abi.GNTST_okay
        settle(one, two)
        assert links_of(one.domain) == (LinkView(1, 0, ports=2, pending=1, events=1), LinkView(1, 2, awaiting=1, given=3, used=1))
        assert links_of(two.domain) == (LinkView(2, 1, mapped=1),)


def test_a_table_that_names_every_domain_is_told_in_part() -> None:
    with pair() as (one, _two):
        one.domain.events.allocate(Port(INTERDOMAIN, backend="console"))
        for ref in range(8, 8 + MOST_PEERS + 20):
            one.grant(ref, SPARE, 1000 + ref)
        links = links_of(one.domain)
        assert len(links) == MOST_PEERS and links[0].peer == 0 and links[0].ports == 1


class _Asked:
    """A guest that answers at once, with how often it was asked as its number of events."""

    def __init__(self, domid: int) -> None:
        self.domid, self.turns, self.questions, self.domain = domid, 0, 0, self

    def ask(self, question: Any) -> Future[Any]:
        self.questions += 1
        future: Future[Any] = Future()
        if self.turns < 0:
            future.cancel()
            future.set_running_or_notify_cancel()
            return future
        guest = self
        self.events = type("E", (), {"ports": {1: Port(INTERDOMAIN, count=guest.questions)}, "pending": lambda _self, _n: False})()
        self.grants = type("G", (), {"active": {}, "granted": lambda _self: {}})()
        self.mappings = type("M", (), {"handles": {}})()
        future.set_result(question())
        self.turns += 1
        return future


def test_a_domain_that_has_not_run_since_is_not_asked_again_and_few_are_asked_at_once() -> None:
    guests = [_Asked(n) for n in range(1, MOST_ASKED + 11)]
    as_guests, links = cast("list[Guest]", guests), Links()
    assert len(links.gather(as_guests)) == MOST_ASKED
    assert len(links.gather(as_guests)) == MOST_ASKED + 10, "the others' turn comes with the next look"
    guests[3].turns += 5
    assert {link.domid: link.events for link in links.gather(as_guests)}[4] == 2
    assert [guest.questions for guest in guests] == [1, 1, 1, 2, *[1] * (MOST_ASKED + 6)]


def test_what_was_known_of_a_domain_that_does_not_answer_stands_until_it_is_gone() -> None:
    guest = _Asked(7)
    links, as_guests = Links(), cast("list[Guest]", [guest])
    known = links.gather(as_guests)
    guest.turns = -1
    assert links.gather(as_guests) == known and guest.questions == 2
    assert links.gather([]) == ()
