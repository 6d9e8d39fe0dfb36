"""GNTTABOP_copy and GNTTABOP_transfer: bytes between frames of two domains, and whole frames (gnttab_copy_one, gnttab_transfer).

What lies in another domain comes and goes as bytes in messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.abi import grant_table as abi
from emulator.abi.xen import DOMID_SELF
from emulator.hypervisor.grants import peers
from emulator.hypervisor.grants.active import GrantError
from emulator.hypervisor.grants.operations import Copy, Transfer
from emulator.hypervisor.memory.frames import GUEST, SHARED, WRITABLE
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

Ahead = Callable[[], Iterable[peers.Ask]]


@dataclass(frozen=True, slots=True)
class _End:
    """Source or destination: a reference (`granted`) of domain `domid` or a frame of one's own, and where in the page."""

    what: int
    domid: int
    offset: int
    granted: bool


@dataclass(frozen=True, slots=True)
class _Job:
    at: int
    fields: bytes
    source: _End
    dest: _End
    length: int

    @property
    def crosses(self) -> bool:
        return max(self.source.offset, self.dest.offset) + self.length > 4096


def _parse(at: int, data: bytes) -> _Job:
    source, source_domid, source_offset, dest, dest_domid, dest_offset, length, flags, _status = abi.COPY.unpack(data)
    by_ref = bool(flags & abi.GNTCOPY_source_gref), bool(flags & abi.GNTCOPY_dest_gref)
    return _Job(at, data[:36], _End(source, source_domid, source_offset, by_ref[0]), _End(dest, dest_domid, dest_offset, by_ref[1]), length)


def _check(vcpu: Vcpu, job: _Job) -> None:
    """gnttab_copy_lock_domains. Raises GrantError."""
    for end in (job.source, job.dest):
        if end.domid != DOMID_SELF and not end.granted:
            raise GrantError(abi.GNTST_permission_denied, f"a frame of domain {end.domid} is named by its number: only DOMID_SELF's may be")
        if end.domid not in (DOMID_SELF, vcpu.domain.domid) and not vcpu.domain.domid_exists(end.domid):
            raise GrantError(abi.GNTST_bad_domain, f"domain {end.domid} does not exist")


def _abroad(vcpu: Vcpu, end: _End) -> bool:
    """Whether it takes a message: the reference is another domain's, or leads to one."""
    domain = vcpu.domain
    if not end.granted:
        return False
    return end.domid not in (DOMID_SELF, domain.domid) or domain.grants.transitive(end.what & 0xFFFFFFFF, domain.domid) is not None


def _ask(vcpu: Vcpu, job: _Job, data: bytes | None) -> peers.Ask:
    """For the source (`data` None) or the destination."""
    own, end = vcpu.domain.domid, job.source if data is None else job.dest
    operation = Copy(own, end.what & 0xFFFFFFFF, end.offset, job.length, data is not None, data or b"")
    return peers.Ask(own if end.domid == DOMID_SELF else end.domid, ("source" if data is None else "dest", job.at, job.fields), operation)


def plan_copy(vcpu: Vcpu, at: int, data: bytes) -> peers.Ask | None:
    """What the operation will ask of another domain, if one thing: it may be asked ahead of those before it that ask the same way."""
    job = _parse(at, data)
    try:
        _check(vcpu, job)
        source, dest = _abroad(vcpu, job.source), _abroad(vcpu, job.dest)
        if source == dest:
            return None
        if source:
            return _ask(vcpu, job, None)
        began: list[Callable[[], None]] = []
        try:
            found, inside = _fetch(vcpu, job, began)
        finally:
            for end in began:
                end()
        return _ask(vcpu, job, found if inside and not job.crosses else b"")
    except GrantError:
        return None


def copy(vcpu: Vcpu, at: int, data: bytes, ahead: Ahead) -> None:
    """Claim the source, claim the destination, check the bounds, copy. Raises GrantError."""
    job = _parse(at, data)
    _check(vcpu, job)
    began: list[Callable[[], None]] = []
    replies: dict[peers.Key, peers.Reply] = {}
    try:
        if _abroad(vcpu, job.source):
            wanted = _ask(vcpu, job, None)
            reply = replies[wanted.key] = peers.ask(vcpu, wanted, ahead)
            found, inside = reply.data, _fits(job.source, job.length, reply.start, reply.length)
        else:
            found, inside = _fetch(vcpu, job, began)
        fitting = found if inside and not job.crosses else b""
        if _abroad(vcpu, job.dest):
            reply = peers.ask(vcpu, _ask(vcpu, job, fitting), ahead)
            room = reply.start, reply.length
        else:
            room = _store(vcpu, job, fitting, began)
    except Preempted:
        vcpu.answers.update(replies)  # the source's answer is wanted again when the destination's has come
        raise
    finally:
        for end in began:
            end()
    if job.crosses:
        raise GrantError(abi.GNTST_bad_copy_arg, f"{job.length} bytes from {job.source.offset} to {job.dest.offset} cross a page's end")
    if not inside:
        raise GrantError(abi.GNTST_general_error, f"{job.length} bytes from {job.source.offset} lie outside of what is granted")
    if not _fits(job.dest, job.length, *room):
        raise GrantError(abi.GNTST_general_error, f"{job.length} bytes to {job.dest.offset} lie outside of what is granted")


def _fits(end: _End, length: int, start: int, room: int) -> bool:
    return start <= end.offset and end.offset + length <= start + room


def _fetch(vcpu: Vcpu, job: _Job, began: list[Callable[[], None]]) -> tuple[bytes, bool]:
    """The bytes of a source here, and whether they lie inside of what may be read."""
    domain, end = vcpu.domain, job.source
    start, room = 0, 4096
    if not end.granted:
        mfn = end.what
        if mfn >= domain.frames.frames or domain.frames.owner[mfn] not in (GUEST, SHARED):
            raise GrantError(abi.GNTST_bad_page, f"frame {mfn:#x} is not the domain's own")
    else:
        ref = end.what & 0xFFFFFFFF
        active = domain.grants.use(ref, domain.domid, False)
        began.append(lambda: domain.grants.over(ref, False))
        mfn, start, room = active.mfn, active.start, active.length
    at = mfn << 12
    return bytes(domain.memory.bytes[at + end.offset : at + min(end.offset + job.length, 4096)]), _fits(end, job.length, start, room)


def _store(vcpu: Vcpu, job: _Job, data: bytes, began: list[Callable[[], None]]) -> tuple[int, int]:
    """Claim a destination here; write `data` where it is as long as it should be and fits. The bounds."""
    domain, end = vcpu.domain, job.dest
    start, room = 0, 4096
    if end.granted:
        ref = end.what & 0xFFFFFFFF
        active = domain.grants.use(ref, domain.domid, True)
        began.append(lambda: domain.grants.over(ref, True))
        mfn, start, room = active.mfn, active.start, active.length
    else:
        mfn = end.what
        if not domain.frames.owned(mfn):
            raise GrantError(abi.GNTST_bad_page, f"frame {mfn:#x} is not the domain's own")
        try:
            domain.tables.get_type(mfn, WRITABLE)
        except Refusal as refusal:
            raise GrantError(abi.GNTST_general_error, refusal.reason) from None
        began.append(lambda: domain.tables.put_type(mfn))
    if len(data) == job.length and _fits(end, job.length, start, room):
        at = (mfn << 12) + end.offset
        domain.memory.bytes[at : at + job.length] = data
        domain.core.forget_frame(mfn)
    return start, room


# --- transfer ---------------------------------------------------------------------------------------------------------------------


def transfer(vcpu: Vcpu, at: int, data: bytes, _ahead: Ahead) -> None:
    """A frame with its contents becomes another domain's. What is refused after it was taken away is gone all the same, as in Xen.
    Raises GrantError."""
    domain = vcpu.domain
    mfn, domid, ref, _status = abi.TRANSFER.unpack(data)
    key = ("transfer", at, data[:16])
    if key in vcpu.answers:
        peers.ask(vcpu, peers.Ask(domid, key, Transfer(domain.domid, ref, b"")), tuple)
        return
    contents = domain.reservation.part_with(mfn)
    if contents is None:
        raise GrantError(abi.GNTST_bad_page, f"frame {mfn:#x} is in use, or not the domain's: it cannot be transferred")
    domain.tables.stale = True
    if domain.peer_of(domid) is None:
        status = abi.GNTST_general_error if domid == 0 else abi.GNTST_bad_domain  # not asked for: a guest may come at this moment
        raise GrantError(status, f"domain {domid} takes no page")
    peers.ask(vcpu, peers.Ask(domid, key, Transfer(domain.domid, ref, contents)), tuple)
