"""Between two domains: what one asks of another's grant table, and how it waits.

    asker                                     granter
    grant_table_op → Request in the peer's queue, vCPU parked
                                              between two slices (paused or not): carried out, Answer posted
    Answer: kept by its key, vCPU goes on
    the same hypercall again → finds the answer

Nobody holds two domains. Both messages are logged by those that receive them, so that each side replays by itself; the bytes of a
page that two domains map are no message: such domains are recorded together or not at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.abi import grant_table as abi
from emulator.hypervisor.grants.mappings import pin_kinds
from emulator.hypervisor.grants.table import GrantError
from emulator.hypervisor.refusal import Preempted

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

Key = tuple[object, ...]
_MOST_ANSWERS: Final = 8
"""Answers that a vCPU may leave lying: one that interrupts its own hypercalls over and over loses the oldest."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` GNTST_*; a map brings the granter's frame and a file of it (the receiver closes it), a copy the bytes and what bounds
    there were."""

    status: int
    reason: str = ""
    mfn: int = 0
    fd: int = -1
    start: int = 0
    length: int = 4096
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """To the asker."""

    vcpu: int
    key: Key
    reply: Reply

    def apply(self, domain: Domain) -> None:
        vcpu = domain.vcpus[self.vcpu]
        while len(vcpu.answers) >= _MOST_ANSWERS:
            oldest = next(iter(vcpu.answers))
            unclaimed(domain, oldest, vcpu.answers.pop(oldest))
        if (twice := vcpu.answers.pop(self.key, None)) is not None:  # asked again after a restore
            unclaimed(domain, self.key, twice)
        vcpu.answers[self.key] = self.reply
        if vcpu.parked == self.key:
            vcpu.parked = None
            domain.rotation.woke()


def unclaimed(domain: Domain, key: Key, reply: Reply) -> None:
    """Nobody comes for an answer: what it holds is given back."""
    if reply.fd < 0:
        return
    os.close(reply.fd)
    _what, _at, _address, flags, ref, domid = key
    peer = domain.peer(domid)  # type: ignore[arg-type]
    if peer is not None:
        tell(peer, Unmap(ref, pin_kinds(flags)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Map:
    """Pin entry `ref` for `domid`, and tell where its page lies."""

    domid: int
    ref: int
    write: bool
    kinds: tuple[int, ...]

    def serve(self, domain: Domain) -> Reply:
        mfn = domain.grants.map(self.ref, self.domid, self.write, self.kinds)
        return Reply(abi.GNTST_okay, mfn=mfn, fd=domain.memory.export(mfn))


@dataclass(frozen=True, slots=True)
class Unmap:
    ref: int
    kinds: tuple[int, ...]

    def serve(self, domain: Domain) -> Reply:
        mfn = domain.grants.unmap(self.ref, self.kinds)
        if mfn is not None:
            domain.memory.unexport(mfn)
        return Reply(abi.GNTST_okay)


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes [offset, offset + length) of what `ref` grants to `domid`: read, or `data` written. Out of bounds nothing is moved and
    the asker judges by `start` and `length` of the reply."""

    domid: int
    ref: int
    offset: int
    length: int
    write: bool
    data: bytes = b""

    def serve(self, domain: Domain) -> Reply:
        grants, octets = domain.grants, domain.memory.bytes
        if grants.transitive(self.ref, self.domid) is not None:
            raise GrantError(abi.GNTST_general_error, "transitive grants are followed no further than one domain")
        active = grants.use(self.ref, self.domid, self.write)
        data = b""
        inside = active.start <= self.offset and self.offset + self.length <= active.start + active.length and self.offset + self.length <= 4096
        if inside:
            at = (active.mfn << 12) + self.offset
            if not self.write:
                data = bytes(octets[at : at + self.length])
            elif len(self.data) == self.length:
                octets[at : at + self.length] = self.data
                domain.core.forget_frame(active.mfn)
        start, length = active.start, active.length
        grants.over(self.ref, self.write)
        return Reply(abi.GNTST_okay, start=start, length=length, data=data)


Operation = Map | Unmap | Copy


@dataclass(frozen=True, slots=True)
class Request:
    """To the granter. `asker`: who hears the answer; None when nobody waits for one."""

    asker: Domain | None
    vcpu: int
    key: Key
    operation: Operation

    def apply(self, domain: Domain) -> None:
        try:
            reply = self.operation.serve(domain)
        except GrantError as error:
            reply = Reply(error.status, error.reason)
        self.answer(reply)

    def gone(self, domid: int) -> None:
        self.answer(Reply(abi.GNTST_bad_domain, f"domain {domid} is gone"))

    def answer(self, reply: Reply) -> None:
        if self.asker is not None and not self.asker.post_if_open(Answer(self.vcpu, self.key, reply)) and reply.fd >= 0:
            os.close(reply.fd)


def ask(vcpu: Vcpu, domid: int, key: Key, operation: Operation) -> tuple[Reply, Domain]:
    """The reply of domain `domid`. The first time there is none: the request goes out, the vCPU is parked, and Preempted raised; the
    caller lets the hypercall be issued again. Raises GrantError for a domain that is not there."""
    domain = vcpu.domain
    peer = domain.peer(domid)
    reply = vcpu.answers.pop(key, None)
    if reply is not None:
        if peer is None:
            if reply.fd >= 0:
                os.close(reply.fd)
            raise GrantError(abi.GNTST_bad_domain, f"domain {domid} is gone")
        if reply.status != abi.GNTST_okay:
            raise GrantError(reply.status, reply.reason)
        return reply, peer
    if peer is None:
        known = domain.domid_exists(domid)
        raise GrantError(abi.GNTST_bad_gntref if known else abi.GNTST_bad_domain,
                         f"domain {domid} grants nothing" if known else f"domain {domid} does not exist")  # fmt: skip
    vcpu.parked = key
    domain.core.stop()
    peer.post_peer(Request(domain, vcpu.number, key, operation))
    raise Preempted


def tell(peer: Domain, operation: Operation) -> None:
    """An operation whose outcome nobody waits for."""
    peer.post_peer(Request(None, 0, (), operation))
