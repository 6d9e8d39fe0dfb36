"""start_info, the page a PV guest finds in RSI at its first instruction (xen/include/public/xen.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

SIF_PRIVILEGED: Final = 1 << 0
SIF_INITDOMAIN: Final = 1 << 1
SIF_MULTIBOOT_MOD: Final = 1 << 2
SIF_MOD_START_PFN: Final = 1 << 3
SIF_VIRT_P2M_4TOOLS: Final = 1 << 4

MAX_GUEST_CMDLINE: Final = 1024
"""Bytes of `cmd_line`, the closing NUL among them."""

XEN_MAGIC: Final = b"xen-3.0-x86_64"

_LAYOUT: Final = struct.Struct("<32sQQI4xQI4xQI4xQQQQQ1024sQQ")
START_INFO_SIZE: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class StartInfo:
    """The fields in their order in the header, `console` being the domU side of its union.

    `shared_info` is a machine address; `store_mfn` and `console_mfn` machine frames; `pt_base`, `mfn_list` virtual addresses;
    `mod_start` a virtual address, or a PFN under SIF_MOD_START_PFN.
    """

    nr_pages: int
    shared_info: int
    flags: int
    store_mfn: int
    store_evtchn: int
    console_mfn: int
    console_evtchn: int
    pt_base: int = 0
    nr_pt_frames: int = 0
    mfn_list: int = 0
    mod_start: int = 0
    mod_len: int = 0
    cmd_line: bytes = b""
    first_p2m_pfn: int = 0
    nr_p2m_frames: int = 0
    magic: bytes = XEN_MAGIC

    def pack(self) -> bytes:
        """The structure's START_INFO_SIZE bytes. ValueError when the command line leaves no room for its NUL."""
        if len(self.cmd_line) >= MAX_GUEST_CMDLINE:
            raise ValueError("cmd_line too long for start_info")
        return _LAYOUT.pack(
            self.magic, self.nr_pages, self.shared_info, self.flags, self.store_mfn, self.store_evtchn, self.console_mfn,
            self.console_evtchn, self.pt_base, self.nr_pt_frames, self.mfn_list, self.mod_start, self.mod_len,
            self.cmd_line, self.first_p2m_pfn, self.nr_p2m_frames,
        )  # fmt: skip

    @classmethod
    def unpack(cls, page: bytes) -> StartInfo:
        """Read the structure back from the first bytes of its page."""
        magic, pages, shared, flags, store, store_port, console, console_port, *rest = _LAYOUT.unpack_from(page)
        pt_base, pt_frames, mfn_list, mod_start, mod_len, cmd_line, first, frames = rest
        return cls(
            pages, shared, flags, store, store_port, console, console_port, pt_base, pt_frames, mfn_list, mod_start, mod_len,
            cmd_line.split(b"\0", 1)[0], first, frames, magic.rstrip(b"\0"),
        )  # fmt: skip
