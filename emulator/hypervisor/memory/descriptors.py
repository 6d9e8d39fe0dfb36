"""Segment descriptors that a guest may have: check_descriptor of xen/arch/x86/pv/descriptor-tables.c.

    63     56 55 54 53 52 51  48 47 46 45 44 43  40 39      16 15    0
    base high  G  D  L  A  limit  P  DPL   S  type    base       limit      a call gate has its target selector in bits 31–16
"""

from __future__ import annotations

from emulator.abi.errno import EINVAL
from emulator.abi.xen import FLAT_RING3_CS64, RESERVED_GDT_ENTRY
from emulator.hypervisor.refusal import Refusal

_PRESENT, _SYSTEM_CLEAR, _DPL, _CALL_GATE = 1 << 47, 1 << 44, 3 << 45, 0xC


def _gate_selector_okay(selector: int) -> bool:
    """guest_gate_selector_okay: a segment of the guest's own, or Xen's flat 64-bit code."""
    return selector & 4 != 0 or selector >> 3 < RESERVED_GDT_ENTRY or selector == FLAT_RING3_CS64


def check_descriptor(descriptor: int) -> int:
    """The descriptor with its privilege level made 3 (0 for a call gate, which Xen emulates). Raises Refusal for what would leave ring 3."""
    if not descriptor & _PRESENT:
        return descriptor
    level = descriptor >> 45 & 3 | 3
    fixed = descriptor & ~_DPL | level << 45
    if descriptor & _SYSTEM_CLEAR:
        return fixed
    kind = descriptor >> 40 & 0xF
    if not kind:
        return descriptor  # the second half of a gate
    selector = descriptor >> 16 & 0xFFFF
    if kind != _CALL_GATE:
        raise Refusal(EINVAL, f"descriptor {descriptor:#018x} is a system segment or gate of type {kind:#x}")
    if not _gate_selector_okay(selector):
        raise Refusal(EINVAL, f"descriptor {descriptor:#018x}: a call gate to selector {selector:#x}")
    if descriptor >> 32 & 0xFF:
        raise Refusal(EINVAL, f"descriptor {descriptor:#018x}: reserved bits of a call gate are set")
    return descriptor & ~_DPL & ~(0xFFFF << 16) | (selector & ~3 | level) << 16
