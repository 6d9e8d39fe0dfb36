"""A vCPU's LDT: pages of the guest's own, each validated and mapped for the processor at its first use (pv/descriptor-tables.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.abi import xen
from emulator.abi.errno import EINVAL
from emulator.cpu.core import LDT
from emulator.hypervisor.memory.frames import SEG_DESC
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu


def set_ldt(vcpu: Vcpu, base: int, entries: int) -> None:
    """MMUEXT_SET_LDT: its pages are mapped at their first use. Raises Refusal."""
    domain = vcpu.domain
    if entries > 8192 or (entries and (base & 0xFFF or 0x800000000000 <= base < xen.HYPERVISOR_VIRT_END)):
        raise Refusal(EINVAL, f"an LDT of {entries} entries at {base:#x}")
    drop_ldt(vcpu)
    vcpu.ldt_base, vcpu.ldt_entries = base, entries
    domain.core.set_table(LDT, domain.layout.gdt_address(vcpu.number) + (xen.GDT_PAGES << 12), max(0, entries * 8 - 1))
    domain.tables.stale = True


def drop_ldt(vcpu: Vcpu) -> None:
    """pv_destroy_ldt: its pages are looked up anew."""
    domain = vcpu.domain
    for page, mfn in vcpu.ldt_frames.items():
        domain.layout.map_ldt(vcpu.number, page, 0)
        domain.tables.put_type(mfn)
        domain.tables.stale = True
    vcpu.ldt_frames = {}


def map_ldt_page(vcpu: Vcpu, page: int) -> bool:
    """pv_map_ldt_shadow_page: False when the fault is the guest's."""
    domain = vcpu.domain
    if page * 512 >= vcpu.ldt_entries or page in vcpu.ldt_frames:
        return False
    index = domain.guest.entry_index(vcpu.ldt_base + (page << 12))
    entry = domain.memory.words[index] if index >= 0 else 0
    if not entry & xen.PRESENT:
        return False
    mfn = (entry & xen.FRAME_MASK) >> 12
    try:
        domain.tables.get_type(mfn, SEG_DESC)
    except Refusal as refusal:
        domain.refused("LDT page", refusal)
        return False
    vcpu.ldt_frames[page] = mfn
    domain.layout.map_ldt(vcpu.number, page, mfn)
    return True
