"""Between two domains: what one asks of another's grant table, and how it waits.

    asker                                     granter
    grant_table_op → Request in the peer's queue, vCPU parked
                                              between two slices (paused or not): carried out, Answer posted
    Answer: kept by its keys, vCPU goes on
    the same hypercall again → finds the answers

A request carries what a whole list asks of that domain, as far as the order of the list allows, so that a list costs one round trip.
Nobody holds two domains. Both messages are logged by those that receive them, so that each side replays by itself; the bytes of a
page that two domains map are no message: such domains are recorded together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from emulator.abi import grant_table as abi
from emulator.hypervisor.grants.active import GrantError
from emulator.hypervisor.refusal import Preempted

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu
    from emulator.machine.memory import Backing

Key = tuple[object, ...]
_OF_A_LIST: Final = ("map", "source", "dest", "transfer")  # keys whose second part is the operation's address
BATCH: Final = 64
"""Operations that go out together, at most: their data is 256 KiB."""
_MOST_ANSWERS: Final = 4 * BATCH
"""Answers that a vCPU may leave lying: one that interrupts its own hypercalls over and over loses the oldest."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` GNTST_*; a map brings the granter, its frame and the file behind it, and what gives the pins back; a copy the bytes and
    what bounds there were."""

    status: int
    reason: str = ""
    granter: Domain | None = None
    mfn: int = 0
    file: Backing | None = None
    undo: Operation | None = None
    start: int = 0
    length: int = 4096
    data: bytes = b""


class Operation(Protocol):
    """What is done in the granting domain, by its holder (grants.operations)."""

    def serve(self, domain: Domain, key: Key, back: Return | None) -> Reply | None:
        """The reply; None when another domain will give it. Raises GrantError."""

    def settle(self) -> None:
        """It will not be served: whoever waits for its end hears of it."""


@dataclass(frozen=True, slots=True)
class Ask:
    domid: int
    key: Key
    operation: Operation


@dataclass(frozen=True, slots=True)
class Answer:
    """To the asker. `serial`: of the request."""

    vcpu: int
    serial: int
    replies: tuple[tuple[Key, Reply], ...]

    def apply(self, domain: Domain) -> None:
        vcpu = domain.vcpus[self.vcpu]
        for key, reply in self.replies:
            if vcpu.waiting.get(key) != self.serial and not domain.replaying:
                unclaimed(reply)  # asked before the domain went back in time
                continue
            vcpu.waiting.pop(key, None)
            vcpu.answers[key] = reply
        while len(vcpu.answers) > _MOST_ANSWERS:
            unclaimed(vcpu.answers.pop(next(iter(vcpu.answers))))
        if not vcpu.waiting:
            domain.rotation.woke()


@dataclass(frozen=True, slots=True)
class Return:
    """Where an answer goes."""

    asker: Domain
    vcpu: int
    serial: int

    def send(self, replies: tuple[tuple[Key, Reply], ...]) -> bool:
        """False when the asker is gone."""
        return self.asker.post_if_open(Answer(self.vcpu, self.serial, replies))


@dataclass(frozen=True, slots=True)
class Request:
    """To the granter. `back`: None when nobody waits for an answer."""

    back: Return | None
    operations: tuple[tuple[Key, Operation], ...]

    def apply(self, domain: Domain) -> None:
        replies: list[tuple[Key, Reply]] = []
        for key, operation in self.operations:
            try:
                reply = operation.serve(domain, key, self.back)
            except GrantError as error:
                reply = Reply(error.status, error.reason)
            if reply is not None:
                replies.append((key, reply))
        if self.back is None or not replies or domain.replaying:
            return
        if not self.back.send(tuple(replies)):
            for _key, reply in replies:
                unclaimed(reply)

    def gone(self, domid: int) -> None:
        """The granter is."""
        for _key, operation in self.operations:
            operation.settle()
        if self.back is not None:
            self.back.send(tuple((key, Reply(abi.GNTST_bad_domain, f"domain {domid} is gone")) for key, _operation in self.operations))


def unclaimed(reply: Reply) -> None:
    """Nobody comes for an answer: what it holds is given back."""
    if reply.undo is not None and reply.granter is not None:
        tell(reply.granter, reply.undo)


def ask(vcpu: Vcpu, wanted: Ask, ahead: Callable[[], Iterable[Ask]]) -> Reply:
    """The reply to what is wanted. The first time there is none: the request goes out, together with what is asked of `ahead`, the
    vCPU is parked, and Preempted raised; the caller lets the hypercall be issued again. Raises GrantError for a refusal, and for a
    domain that is not there."""
    reply = vcpu.answers.pop(wanted.key, None)
    if reply is None:
        _post(vcpu, wanted, ahead)
        raise Preempted
    if reply.status != abi.GNTST_okay:
        raise GrantError(reply.status, reply.reason)
    return reply


def _post(vcpu: Vcpu, wanted: Ask, ahead: Callable[[], Iterable[Ask]]) -> None:
    domain = vcpu.domain
    first = domain.peer_of(wanted.domid)
    if first is None:
        known = wanted.domid == 0  # not asked for: a guest may come at this moment
        raise GrantError(abi.GNTST_bad_gntref if known else abi.GNTST_bad_domain,
                         f"domain {wanted.domid} grants nothing" if known else f"domain {wanted.domid} does not exist")  # fmt: skip
    vcpu.asks += 1
    requests: dict[Domain, list[tuple[Key, Operation]]] = {first: [(wanted.key, wanted.operation)]}
    vcpu.waiting[wanted.key] = vcpu.asks
    for more in ahead():
        peer = domain.peer_of(more.domid)
        if peer is not None and more.key not in vcpu.answers:
            requests.setdefault(peer, []).append((more.key, more.operation))
            vcpu.waiting[more.key] = vcpu.asks
    domain.core.stop()
    if not domain.replaying:
        for peer, operations in requests.items():
            peer.post_peer(Request(Return(domain, vcpu.number, vcpu.asks), tuple(operations)))


def forget_asks(vcpu: Vcpu) -> None:
    """The vCPU waits for nothing any more (its domain ends, or goes back in time)."""
    vcpu.waiting.clear()
    while vcpu.answers:
        unclaimed(vcpu.answers.popitem()[1])


def forget_answers(vcpu: Vcpu, addresses: range) -> None:
    """A hypercall is done: answers to operations of its list that it had no use for are given back."""
    for key in [key for key in vcpu.answers if key[0] in _OF_A_LIST and key[1] in addresses]:
        unclaimed(vcpu.answers.pop(key))


def tell(peer: Domain, operation: Operation) -> None:
    """An operation whose outcome nobody waits for."""
    peer.post_peer(Request(None, (((), operation),)))
