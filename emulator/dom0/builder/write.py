"""Carrying a layout out: the new domain's frames are filled and its first registers set.

Follows tools/libs/guest/xg_dom_x86.c (start_info_x86_64, setup_pgtables_x86_64, vcpu_x86_64) and xg_dom_boot.c. Frames are
scattered over the machine address space (`p2m`), so all copying goes by NumPy's indexed assignment of whole frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emulator.abi.start_info import SIF_VIRT_P2M_4TOOLS, StartInfo
from emulator.dom0.builder.elf import PF_W, PF_X
from emulator.dom0.builder.image import KernelImage
from emulator.dom0.builder.layout import PAGE, Layout
from emulator.dom0.builder.pagetables import build_tables

FLAT_KERNEL_CS: Final = 0xE033
FLAT_KERNEL_SS: Final = 0xE02B
FLAT_KERNEL_DS: Final = 0
VGCF_IN_KERNEL: Final = 1 << 2
VGCF_ONLINE: Final = 1 << 5
_RFLAGS_IF: Final = 1 << 9


@dataclass(frozen=True, slots=True)
class BootIds:
    """What the hypervisor gave the new domain: the MFN of shared_info, its two event channels, and more SIF_ flags."""

    shared_info_mfn: int
    console_evtchn: int
    store_evtchn: int
    flags: int = SIF_VIRT_P2M_4TOOLS


@dataclass(frozen=True, slots=True)
class FirstState:
    """The first vCPU's context and the frames Domain-0 wants to know. `cr3` is the L4's machine address, `rsi` start_info's."""

    rip: int
    rsp: int
    rsi: int
    cr3: int
    start_info_pfn: int
    start_info_mfn: int
    console_pfn: int
    console_mfn: int
    store_pfn: int
    store_mfn: int
    pgtables_pfn: int
    nr_pt_frames: int
    kernel_sp: int
    text: tuple[range, ...] = ()
    """PFNs of the kernel's code that is not writable."""
    rflags: int = _RFLAGS_IF
    cs: int = FLAT_KERNEL_CS
    ss: int = FLAT_KERNEL_SS
    ds: int = FLAT_KERNEL_DS
    kernel_ss: int = FLAT_KERNEL_SS
    flags: int = VGCF_IN_KERNEL | VGCF_ONLINE


class _Frames:
    """The domain's frames by PFN. Frames not written keep what they hold."""

    def __init__(self, memory: NDArray[np.uint8], p2m: NDArray[np.uint64]) -> None:
        self._frames = memory.reshape(-1, PAGE)
        self._p2m = p2m.astype(np.intp)

    def put(self, pfn: int, data: bytes | NDArray[np.uint8], pages: int = 0) -> None:
        """Write `data` to the frames from `pfn` on, zeros to the rest of `pages` frames."""
        source = np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data
        whole = len(source) // PAGE
        if whole:
            self._frames[self._p2m[pfn : pfn + whole]] = source[: whole * PAGE].reshape(-1, PAGE)
        if len(source) % PAGE:
            frame = self._frames[self._p2m[pfn + whole]]
            frame[: len(source) % PAGE] = source[whole * PAGE :]
            frame[len(source) % PAGE :] = 0
            whole += 1
        self._frames[self._p2m[pfn + whole : pfn + max(pages, whole)]] = 0


def write_domain(
    layout: Layout,
    image: KernelImage,
    ramdisk: bytes,
    memory: NDArray[np.uint8],
    p2m: NDArray[np.uint64],
    ids: BootIds,
) -> FirstState:
    """Fill the domain's memory as planned. `memory` is its whole machine address space, `p2m[pfn]` the MFN of each frame.

    ValueError when these do not fit the layout (our mistake, never the image's). The hypercall page is not filled here.
    """
    if len(p2m) < layout.nr_pages or memory.size % PAGE or int(p2m[: layout.nr_pages].max(initial=0)) >= memory.size // PAGE:
        raise ValueError("memory and p2m do not fit the layout")
    p2m = p2m[: layout.nr_pages].astype(np.uint64)
    frames = _Frames(memory, p2m)
    frames.put(layout.kernel.pfn, _load(image, layout.kernel.pages * PAGE))
    if layout.ramdisk is not None:
        frames.put(layout.ramdisk.pfn, ramdisk, layout.ramdisk.pages)
    frames.put(layout.p2m.pfn, p2m.view(np.uint8), layout.p2m.pages)
    for pfn, entries in build_tables(layout.mappings, p2m):
        frames.put(pfn, entries.view(np.uint8))
    store_mfn, console_mfn = int(p2m[layout.xenstore_pfn]), int(p2m[layout.console_pfn])
    start_info = StartInfo(
        nr_pages=layout.nr_pages, shared_info=ids.shared_info_mfn * PAGE, flags=ids.flags | layout.flags, store_mfn=store_mfn,
        store_evtchn=ids.store_evtchn, console_mfn=console_mfn, console_evtchn=ids.console_evtchn,
        pt_base=layout.pgtables.vstart, nr_pt_frames=layout.mappings[0].tables, mfn_list=layout.p2m.vstart,
        mod_start=layout.mod_start, mod_len=layout.mod_len, cmd_line=layout.cmdline,
        first_p2m_pfn=layout.first_p2m_pfn, nr_p2m_frames=layout.nr_p2m_frames,
    )  # fmt: skip
    frames.put(layout.start_info_pfn, start_info.pack())
    for pfn in (layout.xenstore_pfn, layout.console_pfn, layout.bootstack_pfn):
        frames.put(pfn, b"", 1)
    stack = layout.address(layout.bootstack_pfn + 1)
    return FirstState(
        rip=layout.entry, rsp=stack, rsi=layout.address(layout.start_info_pfn), cr3=int(p2m[layout.pgtables.pfn]) * PAGE,
        start_info_pfn=layout.start_info_pfn, start_info_mfn=int(p2m[layout.start_info_pfn]),
        console_pfn=layout.console_pfn, console_mfn=console_mfn, store_pfn=layout.xenstore_pfn, store_mfn=store_mfn,
        pgtables_pfn=layout.pgtables.pfn, nr_pt_frames=layout.mappings[0].tables, kernel_sp=stack,
        text=_text(image, layout),
    )  # fmt: skip


def _text(image: KernelImage, layout: Layout) -> tuple[range, ...]:
    """Whole frames of the segments that may be executed and not written."""
    shift = layout.kernel.pfn - (image.elf.pstart >> 12)
    return tuple(range((s.paddr >> 12) + shift, (s.paddr + s.memsz + PAGE - 1 >> 12) + shift)
                 for s in image.elf.loadable if s.flags & PF_X and not s.flags & PF_W)  # fmt: skip


def _load(image: KernelImage, size: int) -> NDArray[np.uint8]:
    """The kernel as it lies in memory, zeros between and behind its segments; a later segment overwrites an earlier one."""
    flat = np.zeros(size, dtype=np.uint8)
    data = np.frombuffer(image.elf.data, dtype=np.uint8)
    pstart = image.elf.pstart
    for segment in image.elf.loadable:
        at = segment.paddr - pstart
        flat[at : at + segment.filesz] = data[segment.offset : segment.offset + segment.filesz]
        flat[at + segment.filesz : at + segment.memsz] = 0
    if image.symbols is not None:
        at, blob = image.symbols.offset, image.symbols.blob
        flat[at : at + len(blob)] = np.frombuffer(blob, dtype=np.uint8)
    return flat
