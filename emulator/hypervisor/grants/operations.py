"""What the granting domain does for another one: pin an entry for a mapping, copy, accept a page. Its holder carries it out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emulator.abi import grant_table as abi
from emulator.hypervisor.grants.active import DEVICE_WRITE, HOST_WRITE, GrantError
from emulator.hypervisor.grants.peers import Key, Reply, Request, Return, tell

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


def writes(kinds: tuple[int, ...]) -> bool:
    """Whether pins of these kinds allow writing."""
    return HOST_WRITE in kinds or DEVICE_WRITE in kinds


@dataclass(frozen=True, slots=True)
class Map:
    """Pin entry `ref` for `domid`, and tell where its page lies."""

    domid: int
    ref: int
    kinds: tuple[int, ...]

    def serve(self, domain: Domain, _key: Key, _back: Return | None) -> Reply:
        write = writes(self.kinds)
        before = domain.grants.active.get(self.ref)
        written = before is not None and before.written
        mfn = domain.grants.map(self.ref, self.domid, write, self.kinds)
        try:
            file = domain.memory.export(mfn)
        except OSError as error:  # the host's limit of mappings
            domain.grants.unmap(self.ref, self.kinds)
            raise GrantError(abi.GNTST_general_error, f"frame {mfn:#x} cannot be shared: {error}") from None
        if write and not written:
            domain.foreign_writes.add(mfn)
        return Reply(abi.GNTST_okay, granter=domain, mfn=mfn, file=file, undo=Unmap(self.ref, self.kinds))

    def settle(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Unmap:
    ref: int
    kinds: tuple[int, ...]

    def serve(self, domain: Domain, _key: Key, _back: Return | None) -> Reply:
        active = domain.grants.active.get(self.ref)
        written = active is not None and active.written
        mfn = domain.grants.unmap(self.ref, self.kinds)
        if active is not None and written and not active.written:
            domain.foreign_writes.discard(active.mfn)
        if mfn is not None:
            domain.memory.unexport(mfn)
        return Reply(abi.GNTST_okay)

    def settle(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Over:
    """A use of a transitive entry has ended in the domain that it led to."""

    ref: int
    write: bool

    def serve(self, domain: Domain, _key: Key, _back: Return | None) -> Reply:
        if self.ref in domain.grants.active:
            domain.grants.over(self.ref, self.write)
        return Reply(abi.GNTST_okay)

    def settle(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes [offset, offset + length) of what `ref` grants to `domid`: read, or `data` written. Out of bounds nothing is moved and
    the asker judges by `start` and `length` of the reply. `through`: the domain, and its transitive entry, that led here."""

    domid: int
    ref: int
    offset: int
    length: int
    write: bool
    data: bytes = b""
    through: tuple[Domain, int] | None = None

    def serve(self, domain: Domain, key: Key, back: Return | None) -> Reply | None:
        try:
            onward = domain.grants.transitive(self.ref, self.domid)
            if onward is None:
                return self._copy(domain)
            self._pass_on(domain, onward, key, back)
        finally:
            self.settle()
        return None

    def settle(self) -> None:
        if self.through is not None:
            domain, ref = self.through
            tell(domain, Over(ref, self.write))

    def _pass_on(self, domain: Domain, onward: tuple[int, int], key: Key, back: Return | None) -> None:
        """acquire_grant_for_copy of a transitive entry: one step, and never to the domain itself."""
        target, ref = onward
        if self.through is not None:
            raise GrantError(abi.GNTST_general_error, f"grant {self.ref} of domain {domain.domid} leads on: transitive grants go one step")
        if target == domain.domid:
            raise GrantError(abi.GNTST_general_error, "transitive grants cannot be self-referential")
        peer = domain.peer_of(target)
        if peer is None:
            raise GrantError(abi.GNTST_general_error, f"grant {self.ref} leads to domain {target}, which grants nothing")
        domain.grants.use_onward(self.ref, self.domid, self.write)
        if not domain.replaying:
            peer.post_peer(Request(back, ((key, replace(self, domid=domain.domid, ref=ref, through=(domain, self.ref))),)))

    def _copy(self, domain: Domain) -> Reply:
        grants, octets = domain.grants, domain.memory.bytes
        active = grants.use(self.ref, self.domid, self.write)
        start, length, data = active.start, active.length, b""
        end = self.offset + self.length
        if start <= self.offset and end <= min(start + length, 4096):
            at = (active.mfn << 12) + self.offset
            if not self.write:
                data = bytes(octets[at : at + self.length])
            elif len(self.data) == self.length:
                octets[at : at + self.length] = self.data
                domain.core.forget_frame(active.mfn)
        grants.over(self.ref, self.write)
        return Reply(abi.GNTST_okay, start=start, length=length, data=data)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A page of `domid`'s, for the frame that entry `ref` is ready to accept (the second half of gnttab_transfer)."""

    domid: int
    ref: int
    data: bytes

    def serve(self, domain: Domain, _key: Key, _back: Return | None) -> Reply:
        kept = domain.reservation
        if kept.owned >= kept.maximum or not kept.free:
            raise GrantError(abi.GNTST_general_error, f"domain {domain.domid} owns {kept.owned} frames, {kept.maximum} at most")
        pfn = domain.grants.accept(self.ref, self.domid)
        mfn = kept.take()
        assert mfn is not None  # as was looked for
        domain.memory.frame(mfn)[:] = self.data
        domain.layout.set_m2p(mfn, pfn)
        domain.grants.accepted(self.ref, mfn)
        return Reply(abi.GNTST_okay)

    def settle(self) -> None:
        pass
