"""Event channels between two guests: asked for and consented to by message, sent, closed, and never more than a port's worth waiting."""

from __future__ import annotations

import struct

import pytest

from emulator.abi import grant_table as abi
from emulator.abi.errno import EINVAL, ESRCH
from emulator.hypervisor import channels
from emulator.hypervisor.channels import Bind, Signal
from emulator.hypervisor.events import FREE, INTERDOMAIN, UNBOUND
from emulator.hypervisor.refusal import Preempted, Refusal
from emulator.hypervisor.state import cannot_load, load_domain, save_domain
from tests.unit.domains import DATA, Tiny
from tests.unit.granters import Granter, pair, settle

BIND_INTERDOMAIN, CLOSE, SEND, STATUS, ALLOC_UNBOUND, RESET = 0, 3, 4, 5, 6, 10
SELF = 0x7FF0


def offer(guest: Tiny, domid: int) -> int:
    assert guest.call_with("event_channel_op", ALLOC_UNBOUND, "HHI", SELF, domid, 0) == 0
    return int.from_bytes(guest.get(DATA, 4, 4), "little")


def test_a_domain_that_comes_between_two_looks_was_not_there() -> None:
    """It was told to be there and to grant nothing."""
    with pair() as (one, _):
        one.domain.peer = lambda domid: None  # looked up a moment before it came
        assert one.domain.domid_exists(2)
        assert one.map(9, 2)[0] == abi.GNTST_bad_domain and one.map(9, 0)[0] == abi.GNTST_bad_gntref
        for remote, errno in ((2, ESRCH), (0, EINVAL)):
            assert one.call_with("event_channel_op", BIND_INTERDOMAIN, "HxxII", remote, 1, 0) == -errno


def bind(guest: Granter, peer: Granter, port: int) -> int:
    """The local port, or -errno."""
    rip = guest.domain.core.rip
    arguments = guest.put(DATA, struct.pack("<HxxII", peer.domain.domid, port, 0))
    guest.call("event_channel_op", BIND_INTERDOMAIN, arguments)
    assert guest.domain.current.waiting and guest.domain.core.rip == rip, "it waits for the other's consent"
    settle(peer, guest)
    result = guest.call("event_channel_op", BIND_INTERDOMAIN, arguments)
    return result or int.from_bytes(guest.get(DATA, 4, 8), "little")


def status(guest: Tiny, port: int) -> tuple[int, int, int]:
    """(status, domain, port there)"""
    assert guest.call_with("event_channel_op", STATUS, "HxxIIIII", SELF, port, 0, 0, 0, 0) == 0
    kind, _vcpu, domid, far = struct.unpack("<IIII", guest.get(DATA, 16, 8))
    return kind, domid, far


def test_a_channel_between_two_guests_carries_events_both_ways() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        near = bind(one, two, far)
        assert status(one, near) == (INTERDOMAIN, 2, far)
        assert status(two, far) == (INTERDOMAIN, 1, near)
        assert one.domain.events.pending(near), "an event may have been lost before: Xen sets one"
        one.domain.events._clear(near)
        assert one.call_with("event_channel_op", SEND, "I", near) == 0
        settle(two)
        assert two.domain.events.pending(far)
        assert two.call_with("event_channel_op", SEND, "I", far) == 0
        settle(one)
        assert one.domain.events.pending(near)


def test_only_the_domain_that_is_awaited_may_bind() -> None:
    with pair() as (one, two):
        for port in (offer(two, 7), 40, 0, 1 << 31):
            assert bind(one, two, port) == -EINVAL
        assert not one.domain.events.ports, "the number that was set aside is free again"
        assert one.call_with("event_channel_op", BIND_INTERDOMAIN, "HxxII", 9, 1, 0) == -ESRCH
        assert one.call_with("event_channel_op", BIND_INTERDOMAIN, "HxxII", 0, 1, 0) == -EINVAL, "Domain-0 offers nothing"
        far = offer(two, 1)
        assert bind(one, two, far) > 0
        assert bind(one, two, far) == -EINVAL, "it is bound already"


def test_a_close_on_either_side_leaves_the_other_unbound() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        near = bind(one, two, far)
        assert one.call_with("event_channel_op", CLOSE, "I", near) == 0
        settle(two)
        assert status(two, far)[:2] == (UNBOUND, 1)
        assert two.call_with("event_channel_op", SEND, "I", far) == 0, "lost, as in Xen"
        near = bind(one, two, far)
        assert two.call_with("event_channel_op", RESET, "H", SELF) == 0
        settle(one)
        assert status(one, near)[:2] == (UNBOUND, 2)


def test_an_event_that_crosses_a_close_does_nothing() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        near = bind(one, two, far)
        settle(one, two)
        one.domain.events._clear(near)
        assert two.call_with("event_channel_op", SEND, "I", far) == 0
        assert one.call_with("event_channel_op", CLOSE, "I", near) == 0
        again = offer(one, 2)
        assert again == near, "the number is used anew"
        settle(one, two)
        assert not one.domain.events.pending(again)
        assert status(one, again)[0] == UNBOUND and status(two, far)[0] == UNBOUND


def test_a_flood_for_a_paused_guest_waits_as_one_message() -> None:
    with pair() as (one, two):
        near = bind(one, two, offer(two, 1))
        for _ in range(1000):
            assert one.call_with("event_channel_op", SEND, "I", near) == 0
        waiting = 0
        while (message := two.domain.mailbox.take()) is not None:
            waiting += isinstance(message, Signal)
            message.apply(two.domain)
        assert waiting == 1 and not two.domain.signals
        assert one.call_with("event_channel_op", SEND, "I", near) == 0
        assert two.domain.mailbox, "what is sent after it was taken is news"


def test_a_guest_that_goes_leaves_its_peers_ports_unbound() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        near = bind(one, two, far)
        two.domain.close()
        settle(one)
        assert status(one, near)[:2] == (UNBOUND, 2)
        assert one.call_with("event_channel_op", SEND, "I", near) == 0


def test_asking_a_guest_that_goes_meanwhile() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        arguments = one.put(DATA, struct.pack("<HxxII", 2, far, 0))
        one.call("event_channel_op", BIND_INTERDOMAIN, arguments)
        two.domain.close()
        settle(one)
        assert one.call("event_channel_op", BIND_INTERDOMAIN, arguments) == -ESRCH
        assert not one.domain.events.ports


def test_a_snapshot_taken_while_a_bind_waits_asks_again() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        arguments = one.put(DATA, struct.pack("<HxxII", 2, far, 0))
        one.call("event_channel_op", BIND_INTERDOMAIN, arguments)
        state = save_domain(one.domain)
        settle(two)
        one.domain.mailbox.take()  # the answer is not heard
        one.domain.current.waiting.clear()
        load_domain(one.domain, state)
        assert [port.kind for port in one.domain.events.ports.values()] == [FREE]
        near = bind(one, two, far)
        assert status(one, near) == (INTERDOMAIN, 2, far) and len(one.domain.events.ports) == 1


def test_a_restore_is_refused_when_channels_to_others_changed() -> None:
    with pair() as (one, two):
        state = save_domain(one.domain)
        assert cannot_load(one.domain, state) == ""
        near = bind(one, two, offer(two, 1))
        assert "event channels" in cannot_load(one.domain, state)
        assert one.call_with("event_channel_op", CLOSE, "I", near) == 0
        assert cannot_load(one.domain, state) == ""


def test_a_replay_sends_nothing() -> None:
    with pair() as (one, two):
        near = bind(one, two, offer(two, 1))
        one.domain.replaying = True
        one.call_with("event_channel_op", SEND, "I", near)
        Bind(two.domain, 0, 1, 3, 9).apply(one.domain)
        assert not two.domain.mailbox


def test_an_answer_for_a_number_that_a_reset_freed_changes_nothing() -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        arguments = one.put(DATA, struct.pack("<HxxII", 2, far, 0))
        one.call("event_channel_op", BIND_INTERDOMAIN, arguments)
        assert one.domain.events.reset(99)
        settle(two, one, two)
        assert not one.domain.events.ports
        assert status(two, far)[:2] == (UNBOUND, 1), "it hears that nobody is there"


@pytest.mark.parametrize("consented", [False, True])
def test_a_domain_that_dies_while_it_binds_leaves_the_port_unbound(consented: bool) -> None:
    with pair() as (one, two):
        far = offer(two, 1)
        one.call_with("event_channel_op", BIND_INTERDOMAIN, "HxxII", 2, far, 0)
        assert one.domain.current.waiting
        if consented:
            two.domain.serve()
        one.close()
        settle(two)
        assert status(two, far) == (UNBOUND, 1, 0)


def test_an_answer_for_a_number_that_a_reset_gave_to_another_binding_changes_nothing() -> None:
    with pair() as (one, two):
        far, refused = offer(two, 1), offer(two, 7)
        one.call_with("event_channel_op", BIND_INTERDOMAIN, "HxxII", 2, far, 0)
        assert one.call_with("event_channel_op", RESET, "H", SELF) == 0
        one.domain.events.set_aside(2, refused)
        settle(two, one)
        (number,) = one.domain.events.ports
        assert one.domain.events.ports[number].kind == FREE, "two never agreed to that one"
        assert status(two, far) == (UNBOUND, 1, 0)


def on(guest: Granter, vcpu: int, far: int) -> int | None:
    """One attempt of a vCPU to bind: its port or -errno, None while it waits."""
    try:
        return channels.bind(guest.domain.vcpus[vcpu], 2, far)
    except Refusal as refusal:
        return -refusal.errno
    except Preempted:
        return None


def test_of_two_vcpus_that_bind_the_same_far_port_at_once_one_has_it() -> None:
    with pair(vcpus=2) as (one, two):
        far = offer(two, 1)
        assert on(one, 0, far) is None and on(one, 1, far) is None
        state = save_domain(one.domain)
        settle(two, one)
        found = on(one, 0, far), on(one, 1, far)
        assert found[0] and found[0] > 0 and found[1] == -EINVAL, "as the second finds it bound in Xen"
        assert list(one.domain.events.ports) == [found[0]] and one.domain.events.leads_to(found[0], 2, far)
        assert one.call_with("event_channel_op", CLOSE, "I", found[0]) == 0
        settle(two)
        load_domain(one.domain, state)
        assert on(one, 1, far) is None and on(one, 0, far) is None, "they ask again, in another order"
        settle(two, one)
        again = on(one, 0, far), on(one, 1, far)
        assert again[0] == -EINVAL and again[1] == found[0] and list(one.domain.events.ports) == [found[0]]
