"""The granting side: a domain's grant entries, and who uses them now (Xen's active entries).

An entry lies in frames that the guest writes at any moment, so every use reads it anew and pins what it read: while `pin` is held
the frame, its bounds and the user are those of the active entry, whatever the guest writes meanwhile. The guest sees the use in the
entry's GTF_reading and GTF_writing (version 1), or in the status frames (version 2).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from emulator.abi import grant_table as abi
from emulator.abi.errno import EBUSY, EINVAL, ERANGE
from emulator.hypervisor.grants.active import DEVICE_WRITE, HOST_READ, HOST_WRITE, NO_FRAME, Active, GrantError
from emulator.hypervisor.memory.frames import NONE, WRITABLE, XEN, FrameTable
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.memory.pagetables import PageTables
    from emulator.machine.memory import MachineMemory

MAX_GRANT_FRAMES: Final = 64
_MOST_PINS: Final = 255  # of each of the four kinds


class GrantTable:
    """`reserve`: machine frames of the hypervisor's to make the table of, taken from its front."""

    def __init__(self, domid: int, memory: MachineMemory, frames: FrameTable, tables: PageTables, reserve: list[int],
                 limit: int = MAX_GRANT_FRAMES) -> None:  # fmt: skip
        self._domid, self._memory, self._frames, self._tables, self._reserve = domid, memory, frames, tables, reserve
        self.limit = limit
        self.version = 1
        self.shared: list[int] = []
        self.status: list[int] = []
        self.active: dict[int, Active] = {}
        self.grow(1)

    # --- the frames of the table ----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> int:
        return len(self.shared) * abi.ENTRIES_PER_FRAME[self.version]

    def grow(self, frames: int) -> bool:
        """gnttab_grow_table: False when the limit forbids."""
        if frames > self.limit:
            return False
        wanted = [] if self.version == 1 else range(len(self.status), self._status_frames(max(frames, len(self.shared))))
        if max(0, frames - len(self.shared)) + len(wanted) > len(self._reserve):
            return False
        while len(self.shared) < frames:
            self.shared.append(self._new_frame())
        self.status += [self._new_frame() for _ in wanted]
        return True

    @staticmethod
    def _status_frames(frames: int) -> int:
        return -(-frames * abi.ENTRIES_PER_FRAME[2] // abi.STATUS_PER_FRAME)

    def _new_frame(self) -> int:
        mfn = self._reserve.pop(0)
        self._memory.frame(mfn)[:] = bytes(4096)
        self._frames.share(mfn)
        return mfn

    def set_version(self, version: int) -> None:
        """gnttab_set_version. The first eight entries, which the toolstack made, come along. Raises Refusal."""
        if version not in (1, 2):
            raise Refusal(EINVAL, f"grant table version {version} does not exist")
        if version == self.version:
            return
        busy = [ref for ref, entry in self.active.items() if ref >= abi.GNTTAB_NR_RESERVED_ENTRIES and entry.pinned]
        if busy:
            raise Refusal(EBUSY, f"grant {busy[0]} is in use: the version cannot change")
        kept = self._reserved_as_v1()
        if version == 1:
            self._drop_status()
        else:
            self.status += [self._new_frame() for _ in range(self._status_frames(len(self.shared)))]
        for mfn in self.shared:
            self._memory.frame(mfn)[:] = bytes(4096)
        self.version = version
        for ref, (flags, domid, frame) in enumerate(kept):
            if version == 1:
                abi.ENTRY_V1.pack_into(self._memory.bytes, self._at(ref), flags, domid, frame)
            else:
                used = flags & (abi.GTF_reading | abi.GTF_writing)
                abi.ENTRY_V2.pack_into(self._memory.bytes, self._at(ref), flags & ~used, domid, 0, 0, frame)
                self._set_u16(self._status_at(ref), used)

    def _reserved_as_v1(self) -> list[tuple[int, int, int]]:
        if self.version == 1:
            return [abi.ENTRY_V1.unpack_from(self._memory.bytes, self._at(ref)) for ref in range(abi.GNTTAB_NR_RESERVED_ENTRIES)]
        kept = []
        for ref in range(abi.GNTTAB_NR_RESERVED_ENTRIES):
            flags, domid, _offset, _length, frame = abi.ENTRY_V2.unpack_from(self._memory.bytes, self._at(ref))
            kind = flags & abi.GTF_type_mask
            if kind == abi.GTF_transitive or (kind == abi.GTF_permit_access and frame >> 32):
                raise Refusal(ERANGE, f"grant {ref} cannot be expressed in version 1")
            if kind == abi.GTF_permit_access:
                kept.append((flags | self._u16(self._status_at(ref)), domid, frame))
            else:
                kept.append((0, 0, 0))
        return kept

    def _drop_status(self) -> None:
        if any(self._frames.uses(mfn) > 1 for mfn in self.status):
            raise Refusal(EBUSY, "a status frame is still mapped")
        for mfn in self.status:
            self._frames.owner[mfn], self._frames.type[mfn], self._frames.count[mfn] = XEN, NONE, 0
        self._reserve += self.status
        self.status = []

    def seed(self, ref: int, domid: int, frame: int) -> None:
        """An entry made by the toolstack before the guest runs (xc_dom_gnttab_seed)."""
        abi.ENTRY_V1.pack_into(self._memory.bytes, self._at(ref), abi.GTF_permit_access, domid, frame)

    # --- entries ----------------------------------------------------------------------------------------------------------------

    def _at(self, ref: int) -> int:
        per_frame = abi.ENTRIES_PER_FRAME[self.version]
        return (self.shared[ref // per_frame] << 12) + ref % per_frame * (4096 // per_frame)

    def _status_at(self, ref: int) -> int:
        if self.version == 1:
            return self._at(ref)
        return (self.status[ref // abi.STATUS_PER_FRAME] << 12) + ref % abi.STATUS_PER_FRAME * 2

    def _u16(self, at: int) -> int:
        return int.from_bytes(self._memory.bytes[at : at + 2], "little")

    def _set_u16(self, at: int, value: int) -> None:
        self._memory.bytes[at : at + 2] = value.to_bytes(2, "little")

    def _check(self, ref: int, domid: int, kind: int) -> Active | None:
        """Whether `domid` may pin entry `ref` once more, as far as the uses it has now say."""
        if ref >= self.entries:
            raise GrantError(abi.GNTST_bad_gntref, f"grant {ref:#x}: domain {self._domid} has {self.entries} entries")
        active = self.active.get(ref)
        if active is not None and (active.domid != domid or active.pins[kind] >= _MOST_PINS):
            raise GrantError(abi.GNTST_general_error, f"grant {ref} is in use by domain {active.domid}, {active.pins[kind]} times so")
        return active

    def _set_status(self, ref: int, active: Active | None, domid: int, write: bool, types: tuple[int, ...], whole: bool) -> int:
        """_set_status: the guest's entry must allow the use, and shows it from now on. Returns its flags."""
        at = self._at(ref)
        flags, granted, *_ = abi.ENTRY_V1.unpack_from(self._memory.bytes, at)
        if active is None and (flags & abi.GTF_type_mask not in types or (whole and flags & abi.GTF_sub_page) or granted != domid):
            raise GrantError(abi.GNTST_general_error, f"grant {ref} has flags {flags:#x} for domain {granted}, not for domain {domid}")
        if write and flags & abi.GTF_readonly:
            raise GrantError(abi.GNTST_general_error, f"grant {ref} is read-only")
        status = self._status_at(ref)
        self._set_u16(status, self._u16(status) | abi.GTF_reading | (abi.GTF_writing if write else 0))
        return int(flags)

    def _reduce(self, ref: int, active: Active | None, write: bool) -> None:
        """reduce_status_for_pin: take back what no pin needs."""
        clear = 0 if active is not None and active.pinned else abi.GTF_reading
        if write and not (active is not None and active.written):
            clear |= abi.GTF_writing
        status = self._status_at(ref)
        self._set_u16(status, self._u16(status) & ~clear)

    def _frame(self, frame: int) -> int:
        """get_paged_frame: a frame of the granter's own."""
        if not self._frames.owned(frame):
            raise GrantError(abi.GNTST_bad_page, f"frame {frame:#x} is not domain {self._domid}'s own")
        return frame

    # --- uses -------------------------------------------------------------------------------------------------------------------

    def map(self, ref: int, domid: int, write: bool, kinds: tuple[int, ...]) -> int:
        """Pin entry `ref` for a mapping by `domid` and hold its frame; returns the frame. Raises GrantError."""
        active = None
        for kind in kinds:
            active = self._check(ref, domid, kind)
        if active is not None and active.sub_page:
            raise GrantError(abi.GNTST_general_error, f"grant {ref} is in use as part of a page")
        fresh = active is None
        if active is None or (write and not active.written):
            self._set_status(ref, active, domid, write, (abi.GTF_permit_access,), whole=True)
        try:
            if active is None:
                layout = abi.ENTRY_V1 if self.version == 1 else abi.ENTRY_V2
                active = Active(domid, self._frame(layout.unpack_from(self._memory.bytes, self._at(ref))[-1]))
            self._hold(active.mfn, write, len(kinds))
        except GrantError:
            self._reduce(ref, None if fresh else active, write)
            raise
        for kind in kinds:
            active.pins[kind] += 1
        self.active[ref] = active
        return active.mfn

    def unmap(self, ref: int, kinds: tuple[int, ...]) -> int | None:
        """Some of a mapping's uses are over (unmap_common_complete). Returns the frame when they were the entry's last."""
        active = self.active.get(ref)
        if active is None:
            return None
        write = bool(set(kinds) & {HOST_WRITE, DEVICE_WRITE})
        for kind in kinds:
            if active.pins[kind]:
                active.pins[kind] -= 1
                self._let_go(active.mfn, kind in (HOST_WRITE, DEVICE_WRITE))
        self._done(ref, active, write)
        return None if ref in self.active else active.mfn

    def _hold(self, mfn: int, write: bool, times: int = 1) -> None:
        for _ in range(times):
            try:
                if write:
                    self._tables.get_type(mfn, WRITABLE)
                else:
                    self._tables.get(mfn)
            except Refusal as refusal:
                raise GrantError(abi.GNTST_general_error, refusal.reason) from None

    def _let_go(self, mfn: int, write: bool) -> None:
        if mfn == NO_FRAME:
            return
        if write:
            self._tables.put_type(mfn)
        else:
            self._tables.put(mfn)

    def _done(self, ref: int, active: Active, write: bool) -> None:
        self._reduce(ref, active, write)
        if not active.pinned:
            del self.active[ref]

    def use(self, ref: int, domid: int, write: bool) -> Active:
        """Pin entry `ref` for a copy by `domid`, frame held. Raises GrantError; for a transitive entry see `transitive`."""
        kind = HOST_WRITE if write else HOST_READ
        active = self._check(ref, domid, kind)
        fresh = active is None
        if active is not None and active.mfn == NO_FRAME:
            raise GrantError(abi.GNTST_bad_domain, f"grant {ref} led to another domain when its present use began")
        if active is None or (write and not active.written):
            flags = self._set_status(ref, active, domid, write, (abi.GTF_permit_access,), whole=False)
            if active is None:
                try:
                    active = self._entry_for_copy(ref, domid, flags)
                except GrantError:
                    self._reduce(ref, None, write)
                    raise
        try:
            self._hold(active.mfn, write)
        except GrantError:
            self._reduce(ref, None if fresh else active, write)
            raise
        active.pins[kind] += 1
        self.active[ref] = active
        return active

    def _entry_for_copy(self, ref: int, domid: int, flags: int) -> Active:
        if self.version == 1:
            return Active(domid, self._frame(abi.ENTRY_V1.unpack_from(self._memory.bytes, self._at(ref))[2]))
        _flags, _domid, offset, length, frame = abi.ENTRY_V2.unpack_from(self._memory.bytes, self._at(ref))
        if flags & abi.GTF_sub_page:
            return Active(domid, self._frame(frame), offset, length, True)
        return Active(domid, self._frame(frame))

    def over(self, ref: int, write: bool) -> None:
        """A use by `use` has ended."""
        active = self.active[ref]
        active.pins[HOST_WRITE if write else HOST_READ] -= 1
        self._let_go(active.mfn, write)
        self._done(ref, active, write)

    def transitive(self, ref: int, domid: int) -> tuple[int, int] | None:
        """(domain, reference) that a transitive entry passes on to `domid`; None when it is none."""
        if self.version == 1 or ref >= self.entries:
            return None
        flags, granted, onward, gref = abi.TRANSITIVE_V2.unpack_from(self._memory.bytes, self._at(ref))
        return (onward, gref) if flags & abi.GTF_type_mask == abi.GTF_transitive and granted == domid else None

    def use_onward(self, ref: int, domid: int, write: bool) -> None:
        """Pin the transitive entry `ref` while a copy by `domid` goes on in the domain that it leads to. Until `over`."""
        kind = HOST_WRITE if write else HOST_READ
        active = self._check(ref, domid, kind)
        if active is not None and active.mfn != NO_FRAME:
            raise GrantError(abi.GNTST_general_error, f"grant {ref} granted a frame when its present use began")
        if active is None or (write and not active.written):
            self._set_status(ref, active, domid, write, (abi.GTF_transitive,), whole=False)
        active = active or Active(domid, NO_FRAME, sub_page=True)  # as part of a page it cannot be mapped
        active.pins[kind] += 1
        self.active[ref] = active

    def accept(self, ref: int, domid: int) -> int:
        """gnttab_prepare_for_transfer: entry `ref` takes a page from `domid`; the PFN it is to have. Raises GrantError."""
        if ref >= self.entries:
            raise GrantError(abi.GNTST_general_error, f"grant {ref:#x}: domain {self._domid} has {self.entries} entries")
        at = self._at(ref)
        flags, granted, *rest = (abi.ENTRY_V1 if self.version == 1 else abi.ENTRY_V2).unpack_from(self._memory.bytes, at)
        if flags != abi.GTF_accept_transfer or granted != domid:
            raise GrantError(abi.GNTST_general_error, f"grant {ref} has flags {flags:#x} for domain {granted}: it takes no page of domain {domid}")
        self._set_u16(at, flags | abi.GTF_transfer_committed)
        return int(rest[-1])

    def accepted(self, ref: int, mfn: int) -> None:
        """The page has come: it is frame `mfn`."""
        at = self._at(ref)
        if self.version == 1:
            self._memory.bytes[at + 4 : at + 8] = mfn.to_bytes(4, "little")
        else:
            self._memory.bytes[at + 8 : at + 16] = mfn.to_bytes(8, "little")
        self._set_u16(at, self._u16(at) | abi.GTF_transfer_completed)

    def swap(self, a: int, b: int) -> None:
        """swap_grant_ref. Raises GrantError."""
        for ref in (a, b):
            if ref >= self.entries:
                raise GrantError(abi.GNTST_bad_gntref, f"grant {ref:#x} does not exist")
        if a == b:
            return
        for ref in (a, b):
            if ref in self.active:
                raise GrantError(abi.GNTST_eagain, f"grant {ref} is in use")
        size = 4096 // abi.ENTRIES_PER_FRAME[self.version]
        self._exchange(self._at(a), self._at(b), size)
        if self.version == 2:
            self._exchange(self._status_at(a), self._status_at(b), 2)

    def _exchange(self, a: int, b: int, size: int) -> None:
        octets = self._memory.bytes
        first, second = bytes(octets[a : a + size]), bytes(octets[b : b + size])
        octets[a : a + size], octets[b : b + size] = second, first

    # --- looking and saving ---------------------------------------------------------------------------------------------------

    def list(self, most: int = 256) -> list[tuple[int, int, int, int, str]]:
        """(reference, flags, domain, frame, "who uses it how") of the entries that grant something, at most `most`."""
        found = []
        for ref in range(self.entries):
            fields = (abi.ENTRY_V1 if self.version == 1 else abi.ENTRY_V2).unpack_from(self._memory.bytes, self._at(ref))
            if not fields[0] & abi.GTF_type_mask:
                continue
            active = self.active.get(ref)
            users = "" if active is None else f"domain {active.domid}: {sum(active.pins)}" + (" writing" if active.written else " reading")
            found.append((ref, fields[0], fields[1], fields[-1], users))
            if len(found) >= most:
                break
        return found

    def granted(self) -> dict[int, int]:
        """How many entries grant something, by the domain that they name."""
        counts: dict[int, int] = {}
        for mfn in self.shared:
            entries = np.frombuffer(self._memory.frame(mfn), np.uint16).reshape(abi.ENTRIES_PER_FRAME[self.version], -1)
            named, times = np.unique(entries[entries[:, 0] & abi.GTF_type_mask != 0, 1], return_counts=True)
            for domid, count in zip(named.tolist(), times.tolist(), strict=True):
                counts[domid] = counts.get(domid, 0) + count
        return counts

    def _abroad(self, entries: dict[int, Active]) -> dict[int, Active]:
        """Those that other guests use."""
        return {ref: active for ref, active in entries.items() if active.domid not in (0, self._domid)}

    def written_by_guests(self) -> tuple[int, ...]:
        """Frames that other guests map writable."""
        return tuple(active.mfn for active in self._abroad(self.active).values() if active.written and active.mfn != NO_FRAME)

    def cannot_load(self, state: dict[str, Any]) -> str:
        """Why not: another guest's use of today cannot be undone. Empty when it can."""
        for ref, now in self._abroad(self.active).items():
            then = state["active"].get(ref)
            if then is None or (then.domid, then.mfn) != (now.domid, now.mfn) or any(a > b for a, b in zip(now.pins, then.pins, strict=True)):
                return f"domain {now.domid} uses its grant {ref} now, and did not use it so then"
        return ""

    def save(self) -> dict[str, Any]:
        return {"version": self.version, "shared": list(self.shared), "status": list(self.status), "active": copy.deepcopy(self.active),
                "reserve": list(self._reserve)}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """What other guests used then and do not now has ended; the frames' types and counts must be those of then already."""
        now = {ref: list(active.pins) for ref, active in self._abroad(self.active).items()}
        self.version, self.shared, self.status = state["version"], list(state["shared"]), list(state["status"])
        self.active = copy.deepcopy(state["active"])
        self._reserve[:] = state["reserve"]
        for ref, then in self._abroad(self.active).items():
            left = now.get(ref, [0, 0, 0, 0])
            self.unmap(ref, tuple(kind for kind in range(4) for _ in range(then.pins[kind] - left[kind])))
