"""The side that maps: a domain's handles (Xen's maptrack) and the window through which it sees other domains' frames.

The window is a range of machine frames behind the domain's own. While a grant of another domain is mapped, one of them has that
domain's page laid under it; the guest's page tables name the window's frame. Frame table and page walks know no difference but the
owner, FOREIGN: such a frame can be mapped by the grant-table operations alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emulator.abi import grant_table as abi
from emulator.abi.xen import ACCESSED, DIRTY, FRAME_MASK, GLOBAL, GUEST_KERNEL, NX, PRESENT, RW, USER
from emulator.hypervisor.grants.active import DEVICE_READ, DEVICE_WRITE, HOST_READ, HOST_WRITE, GrantError
from emulator.hypervisor.grants.operations import Unmap
from emulator.hypervisor.grants.peers import tell
from emulator.hypervisor.memory.frames import FOREIGN, L1, NONE, WRITABLE, XEN
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.machine.memory import Backing

MAX_MAPTRACK_FRAMES: Final = 1024
_HANDLES_PER_FRAME: Final = 4096 // 16


@dataclass(slots=True)
class Mapping:
    """One handle. `flags`: GNTMAP_* still in force; `mfn`: the frame as the mapper names it; `peer`: the granting Domain, None for
    the domain's own."""

    domid: int
    ref: int
    flags: int
    mfn: int
    peer: Domain | None = None

    @property
    def write(self) -> bool:
        return not self.flags & abi.GNTMAP_readonly


def pin_kinds(flags: int) -> tuple[int, ...]:
    """The pins that GNTMAP_* flags take."""
    readonly = flags & abi.GNTMAP_readonly
    kinds: list[int] = []
    if flags & abi.GNTMAP_device_map:
        kinds.append(DEVICE_READ if readonly else DEVICE_WRITE)
    if flags & abi.GNTMAP_host_map:
        kinds.append(HOST_READ if readonly else HOST_WRITE)
    return tuple(kinds)


class Mappings:
    """For one domain."""

    def __init__(self, domain: Domain, window: range) -> None:
        self._domain = domain
        self._limit = MAX_MAPTRACK_FRAMES * _HANDLES_PER_FRAME
        self._free_window = list(reversed(window))
        self._free: list[int] = []
        self._next = 0
        self.handles: dict[int, Mapping] = {}
        self._open: set[int] = set()  # frames of the window in use

    # --- handles ----------------------------------------------------------------------------------------------------------------

    def room(self, foreign: bool) -> None:
        """Raises GrantError when there is no handle, or no window frame, for one more mapping."""
        if not self._free and self._next >= self._limit:
            raise GrantError(abi.GNTST_no_space, f"all {self._limit} handles are in use")
        if foreign and not self._free_window:
            raise GrantError(abi.GNTST_no_space, "the window for other domains' frames is full")

    def add(self, mapping: Mapping) -> int:
        if self._free:
            handle = self._free.pop()
        else:
            handle, self._next = self._next, self._next + 1
        self.handles[handle] = mapping
        return handle

    def find(self, handle: int) -> Mapping:
        found = self.handles.get(handle)
        if found is None:
            raise GrantError(abi.GNTST_bad_handle, f"handle {handle:#x} maps nothing")
        return found

    def drop(self, handle: int) -> None:
        del self.handles[handle]
        self._free.append(handle)

    # --- the window -------------------------------------------------------------------------------------------------------------

    def open(self, file: Backing, peer_mfn: int) -> int:
        """Lay a page of another domain's file under a frame of the window."""
        mfn = self._free_window.pop()
        try:
            self._domain.memory.map_foreign(mfn, file, peer_mfn)
        except OSError as error:  # the host's limit of mappings
            self._free_window.append(mfn)
            raise GrantError(abi.GNTST_general_error, f"the frame cannot be shown here: {error}") from None
        self._open.add(mfn)
        self._domain.core.forget_frame(mfn)
        self._domain.foreign_writes.add(mfn)
        self._domain.frames.owner[mfn] = FOREIGN
        return mfn

    def close(self, mfn: int) -> None:
        """Take it away again; what the guest still maps of it is a page of zeros from now on, and the frame not used again."""
        domain, frames = self._domain, self._domain.frames
        domain.memory.unmap_foreign(mfn)
        self._open.discard(mfn)
        domain.foreign_writes.discard(mfn)
        domain.tables.stale = True
        if not frames.uses(mfn):
            frames.owner[mfn], frames.type[mfn] = XEN, NONE
            self._free_window.append(mfn)

    # --- page table entries -----------------------------------------------------------------------------------------------------

    def _slot(self, address: int, flags: int) -> int:
        """The L1 entry that a host address means: by its own machine address, or as what maps a linear one."""
        domain = self._domain
        if flags & abi.GNTMAP_contains_pte:
            if address & 7:
                raise GrantError(abi.GNTST_general_error, f"entry address {address:#x} is not 8-byte aligned")
            at = address >> 3
        else:
            try:
                domain.guest.check_range(address)
            except Refusal as refusal:
                raise GrantError(abi.GNTST_general_error, refusal.reason) from None
            at = domain.guest.entry_index(address)
        mfn = at >> 9
        if at < 0 or not domain.frames.owned(mfn) or domain.frames.type[mfn] != L1:
            raise GrantError(abi.GNTST_general_error, f"no L1 entry at {address:#x}")
        return at

    def map_host(self, address: int, mfn: int, flags: int) -> None:
        """create_grant_pv_mapping: the entry takes a reference to `mfn`; what it held before goes."""
        domain = self._domain
        at = self._slot(address, flags)
        entry = mfn << 12 | PRESENT | ACCESSED | DIRTY | NX | (flags >> abi.GNTMAP_guest_avail0 & 7) << 9
        entry |= USER | GLOBAL if flags & abi.GNTMAP_application_map else USER | GUEST_KERNEL
        frames = domain.frames
        if not flags & abi.GNTMAP_readonly:
            if frames.count[mfn] and frames.type[mfn] != WRITABLE:
                raise GrantError(abi.GNTST_general_error, f"frame {mfn:#x} is {frames.describe(mfn)}")
            frames.type[mfn] = WRITABLE
            frames.count[mfn] += 1
            entry |= RW
        else:
            frames.readers[mfn] += 1
        words = domain.memory.words
        old = words[at]
        words[at] = entry
        if old & PRESENT:
            domain.tables.put_leaf(old)
            domain.tables.stale = True

    def unmap_host(self, address: int, mapping: Mapping, new_address: int = 0) -> None:
        """replace_grant_pv_mapping: only an entry that is still what was made of it. With `new_address` its entry moves here."""
        domain, words = self._domain, self._domain.memory.words
        new = 0
        if new_address:
            if mapping.flags & abi.GNTMAP_contains_pte:
                raise GrantError(abi.GNTST_general_error, "an entry given by its machine address cannot be replaced")
            source = self._slot(new_address, 0)
            new, words[source] = words[source], 0
            domain.tables.stale = True
        try:
            at = self._slot(address, mapping.flags)
            old = words[at]
            wanted = PRESENT | (RW if mapping.write else 0)
            if (old & FRAME_MASK) >> 12 != mapping.mfn or old & (PRESENT | RW) != wanted:
                raise GrantError(abi.GNTST_general_error, f"entry {old:#x} for {address:#x} is not the mapping of frame {mapping.mfn:#x}")
        except GrantError:
            if new & PRESENT:
                domain.tables.put_leaf(new)
            raise
        words[at] = new
        domain.tables.put_leaf(old)
        domain.tables.stale = True

    # --- end and saving -----------------------------------------------------------------------------------------------------------

    def release(self) -> list[Mapping]:
        """Every mapping goes at once, at the domain's end: what its granting domains must hear of."""
        gone = list(self.handles.values())
        self.handles.clear()
        return gone

    def shows(self, mfn: int) -> bool:
        """Whether a frame of the window shows another domain's."""
        return mfn in self._open

    def shown(self) -> list[int]:
        """Frames of the window that show others' now."""
        return [mapping.mfn for mapping in self.handles.values() if mapping.peer is not None]

    def save(self) -> dict[str, Any]:
        kept = {handle: (m.domid, m.ref, m.flags, m.mfn) for handle, m in self.handles.items()}
        return {"handles": kept, "free": list(self._free), "next": self._next, "window": list(self._free_window)}

    def _then(self, state: dict[str, Any]) -> dict[int, tuple[int, int, int, int]]:
        """Of a saved state, what was mapped of other domains: (domain, reference, flags, frame) by handle."""
        return {handle: saved for handle, saved in state["handles"].items() if saved[0] != self._domain.domid}

    def cannot_load(self, state: dict[str, Any]) -> str:
        """Why not: mappings of other domains' frames cannot be conjured up. Empty when it can."""
        for handle, saved in self._then(state).items():
            now = self.handles.get(handle)
            if now is None or now.peer is None or (now.domid, now.ref, now.flags, now.mfn) != saved:
                return f"it mapped grant {saved[1]} of domain {saved[0]} then, and does not now"
        return ""

    def load(self, state: dict[str, Any]) -> None:
        """What is mapped of other domains now and was not then is unmapped. Raises ValueError for what `cannot_load`."""
        if reason := self.cannot_load(state):
            raise ValueError(reason)
        then, own = self._then(state), self._domain.domid
        for handle, mapping in self.handles.items():
            if mapping.peer is not None and handle not in then:
                self._domain.memory.unmap_foreign(mapping.mfn)
                tell(mapping.peer, Unmap(mapping.ref, pin_kinds(mapping.flags)))
        peers = {handle: mapping.peer for handle, mapping in self.handles.items()}
        self.handles = {h: Mapping(d, r, f, mfn, peers[h] if d != own else None) for h, (d, r, f, mfn) in state["handles"].items()}
        self._open = set(self.shown())
        self._free, self._next, self._free_window = list(state["free"]), state["next"], list(state["window"])
