"""A domain's memory and single frames of it, as `views` has all else. The part "memory" of a domain's detail."""

from __future__ import annotations

from msgspec import field

from emulator.control.view import View


class MemoryView(View, frozen=True):
    """A domain's memory: who uses each frame, and where it lies."""

    current: int = 0  # frames owned now
    target: int = 0
    minimum: int = 0  # the balloon policy leaves it so many
    maximum: int = 0
    types: bytes = b""  # one byte a block of `block` PFNs: the code in FRAME_TYPES that prevails in it
    block: int = 1
    type_counts: dict[str, int] = field(default_factory=dict)  # frames by type name
    p2m_sample: tuple[tuple[int, int], ...] = ()  # (pfn, mfn), evenly spaced, at most 4096
    nr_pfns: int = 0
    nr_mfns: int = 0  # machine frames in the domain's private address space
    dirty: int = 0  # frames written since the last snapshot, -1 when unknown


FRAME_TYPES: tuple[str, ...] = ("hole", "ram", "l1", "l2", "l3", "l4", "seg_desc", "writable", "shared_info", "start_info",
                                "console", "xenstore", "grant", "xen")  # fmt: skip
"""Meaning of the codes in `MemoryView.types`."""


class FrameEntryView(View, frozen=True):
    """A page-table entry that names a frame."""

    level: int  # of the table it stands in
    table: int  # that table's machine frame
    slot: int
    address: int = -1  # where the guest sees the frame by it, -1 when no L4 leads there
    flags: str = ""  # "rw u x a d g", a '-' where not set


class FrameView(View, frozen=True):
    """One frame, looked at closely. It is asked for by its PFN."""

    pfn: int
    mfn: int = -1
    owner: str = ""
    type: str = ""  # "none" "L1 table" … "writable"
    count: int = 0  # uses as that type
    references: int = 0  # Xen's general count: these, the untyped ones and the allocation
    pinned: bool = False
    leaving: bool = False  # given back, and gone with its last use
    entries: tuple[FrameEntryView, ...] = ()
    total: int = 0  # entries there are; at most 64 are listed
    whole: bool = True  # every table was searched
