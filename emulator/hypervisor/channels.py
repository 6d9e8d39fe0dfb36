"""Event channels between two guests (xen/common/event_channel.c), when neither may touch the other.

    asker                                            far end
    bind_interdomain: a number set aside, Bind sent,
    vCPU parked                                      its unbound port becomes interdomain, Bound posted
    Bound: the number becomes a port, event pending
    the same hypercall again → finds the answer
    send → Signal, one at a time for a port          sets its port pending
    close → Closed                                   its port is unbound again, and waits for the same domain

A message says which port sent it, and the receiver looks whether its own port still leads there: one that crossed a close does
nothing. What waits for a paused domain is bounded by its ports, since a pending bit that will be set need not be set twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.abi.errno import EINVAL, ESRCH
from emulator.hypervisor.grants.peers import Answer, Key, Reply
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.events import Port
    from emulator.hypervisor.vcpu import Vcpu


@dataclass(frozen=True, slots=True)
class Signal:
    """An event from `far_port` of domain `domid` for `port`."""

    domid: int
    far_port: int
    port: int

    def apply(self, domain: Domain) -> None:
        domain.signals.discard(self)  # first: what is sent from now on is news
        if domain.events.leads_to(self.port, self.domid, self.far_port):
            domain.events.set_pending(self.port)


@dataclass(frozen=True, slots=True)
class Closed:
    """`far_port` of domain `domid`, the other end of `port`, was closed."""

    domid: int
    far_port: int
    port: int

    def apply(self, domain: Domain) -> None:
        if domain.events.leads_to(self.port, self.domid, self.far_port):
            domain.events.unbind(self.port)


@dataclass(frozen=True, slots=True)
class Bound:
    """To the asker: what became of its `port`, which was to lead to `far_port` of `domid`; errno 0 or why not."""

    vcpu: int
    serial: int
    port: int
    domid: int
    far_port: int
    errno: int = 0
    reason: str = ""

    def apply(self, domain: Domain) -> None:
        domain.events.take_up(self.port, self.domid, self.far_port, not self.errno)
        if not self.errno and not domain.events.leads_to(self.port, self.domid, self.far_port):
            part(domain, self.port, self.domid, self.far_port)  # a reset came between
        Answer(self.vcpu, self.serial, ((_key(self.domid, self.far_port), Reply(self.errno, self.reason, start=self.port)),)).apply(domain)


@dataclass(frozen=True, slots=True)
class Bind:
    """To the far end: `far_port` of `asker` would be the other end of `port`."""

    asker: Domain
    vcpu: int
    serial: int
    far_port: int
    port: int

    def apply(self, domain: Domain) -> None:
        try:
            domain.events.accept(self.port, self.asker.domid, self.far_port)
        except Refusal as refusal:
            self._answer(domain, refusal.errno, refusal.reason)
        else:
            self._answer(domain)

    def _answer(self, domain: Domain, errno: int = 0, reason: str = "") -> None:
        if domain.replaying:
            return
        heard = self.asker.post_if_open(Bound(self.vcpu, self.serial, self.far_port, domain.domid, self.port, errno, reason))
        if not heard and not errno:
            domain.post(Closed(self.asker.domid, self.far_port, self.port))  # it died meanwhile; a message, for the log

    def gone(self, domid: int) -> None:
        self.asker.post_if_open(Bound(self.vcpu, self.serial, self.far_port, domid, self.port, ESRCH, f"domain {domid} is gone"))


def _key(domid: int, far_port: int) -> Key:
    return ("bind", domid, far_port)


def bind(vcpu: Vcpu, domid: int, far_port: int) -> int:
    """EVTCHNOP_bind_interdomain to another guest: the local port. Raises Preempted while the other has not answered, Refusal."""
    domain = vcpu.domain
    key = _key(domid, far_port)
    reply = vcpu.answers.pop(key, None)
    if reply is not None:
        if reply.status:
            raise Refusal(reply.status, reply.reason)
        return reply.start
    peer = domain.peer(domid)
    if peer is None:
        known = domid == 0  # not asked for: a guest may come at this moment
        raise Refusal(EINVAL if known else ESRCH, f"domain {domid} offers no port {far_port}" if known else f"domain {domid} does not exist")
    others = sum(key in other.waiting for other in domain.vcpus if other is not vcpu)
    port = domain.events.set_aside(domid, far_port, others)
    vcpu.asks += 1
    vcpu.waiting[key] = vcpu.asks
    domain.core.stop()
    if not domain.replaying:
        peer.post_peer(Bind(domain, vcpu.number, vcpu.asks, port, far_port))
    raise Preempted


def signal(domain: Domain, number: int, port: Port) -> None:
    """The event of a send over `port` (its number here: `number`) to another guest."""
    peer = domain.peer(port.remote_domain)
    if peer is None or domain.replaying:
        return
    event = Signal(domain.domid, number, port.remote_port)
    if event not in peer.signals:
        peer.signals.add(event)
        if not peer.post_if_open(event):
            peer.signals.discard(event)


def part(domain: Domain, number: int, domid: int, far_port: int) -> None:
    """Port `number` is closed: domain `domid`, where it led to `far_port`, hears of it."""
    peer = domain.peer(domid)
    if peer is not None and not domain.replaying:
        peer.post_if_open(Closed(domain.domid, number, far_port))
