"""ELF notes by which a kernel tells Xen's domain builder how it wants to be started (xen/include/public/elfnote.h).

Also the feature names a FEATURES note may hold (xen/include/public/features.h, xen/common/libelf/libelf-dominfo.c).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

XEN_ELFNOTE_INFO: Final = 0
XEN_ELFNOTE_ENTRY: Final = 1
XEN_ELFNOTE_HYPERCALL_PAGE: Final = 2
XEN_ELFNOTE_VIRT_BASE: Final = 3
XEN_ELFNOTE_PADDR_OFFSET: Final = 4
XEN_ELFNOTE_XEN_VERSION: Final = 5
XEN_ELFNOTE_GUEST_OS: Final = 6
XEN_ELFNOTE_GUEST_VERSION: Final = 7
XEN_ELFNOTE_LOADER: Final = 8
XEN_ELFNOTE_PAE_MODE: Final = 9
XEN_ELFNOTE_FEATURES: Final = 10
XEN_ELFNOTE_BSD_SYMTAB: Final = 11
XEN_ELFNOTE_HV_START_LOW: Final = 12
XEN_ELFNOTE_L1_MFN_VALID: Final = 13
XEN_ELFNOTE_SUSPEND_CANCEL: Final = 14
XEN_ELFNOTE_INIT_P2M: Final = 15
XEN_ELFNOTE_MOD_START_PFN: Final = 16
XEN_ELFNOTE_SUPPORTED_FEATURES: Final = 17
XEN_ELFNOTE_PHYS32_ENTRY: Final = 18

XEN_ELFNOTE_DUMPCORE_NONE: Final = 0x2000000
XEN_ELFNOTE_DUMPCORE_HEADER: Final = 0x2000001
XEN_ELFNOTE_DUMPCORE_XEN_VERSION: Final = 0x2000002
XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: Final = 0x2000003
"""Of core dumps: dom0/coredump."""

XENFEAT_writable_page_tables: Final = 0
XENFEAT_writable_descriptor_tables: Final = 1
XENFEAT_auto_translated_physmap: Final = 2
XENFEAT_supervisor_mode_kernel: Final = 3
XENFEAT_pae_pgdir_above_4gb: Final = 4
XENFEAT_hvm_callback_vector: Final = 8
XENFEAT_dom0: Final = 11

FEATURE_BITS: Final = MappingProxyType(
    {
        "writable_page_tables": XENFEAT_writable_page_tables,
        "writable_descriptor_tables": XENFEAT_writable_descriptor_tables,
        "auto_translated_physmap": XENFEAT_auto_translated_physmap,
        "supervisor_mode_kernel": XENFEAT_supervisor_mode_kernel,
        "pae_pgdir_above_4gb": XENFEAT_pae_pgdir_above_4gb,
        "hvm_callback_vector": XENFEAT_hvm_callback_vector,
        "dom0": XENFEAT_dom0,
    }
)
"""The names libelf knows in a FEATURES string; it ignores any other unless it is required by a leading '!'."""
