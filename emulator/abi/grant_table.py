"""Numbers and layouts of grant_table.h: what one domain lets others do with its frames."""

from __future__ import annotations

from struct import Struct
from typing import Final

# --- entries (GTF_*) -------------------------------------------------------------------------------------------------------
GTF_invalid, GTF_permit_access, GTF_accept_transfer, GTF_transitive, GTF_type_mask = 0, 1, 2, 3, 3
GTF_readonly, GTF_reading, GTF_writing, GTF_PWT, GTF_PCD, GTF_PAT, GTF_sub_page = (1 << n for n in range(2, 9))
GTF_transfer_committed, GTF_transfer_completed = 4, 8
GNTTAB_NR_RESERVED_ENTRIES, GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE = 8, 0, 1
ENTRY_V1: Final = Struct("<HHI")  # flags domid frame
ENTRY_V2: Final = Struct("<HHHHQ")  # flags domid page_off length frame
TRANSITIVE_V2: Final = Struct("<HHHxxIxxxx")  # flags domid trans_domid gref
ENTRIES_PER_FRAME: Final = {1: 4096 // 8, 2: 4096 // 16}
STATUS_PER_FRAME: Final = 4096 // 2

# --- operations ------------------------------------------------------------------------------------------------------------
(GNTTABOP_map_grant_ref, GNTTABOP_unmap_grant_ref, GNTTABOP_setup_table, GNTTABOP_dump_table, GNTTABOP_transfer, GNTTABOP_copy,
 GNTTABOP_query_size, GNTTABOP_unmap_and_replace, GNTTABOP_set_version, GNTTABOP_get_status_frames, GNTTABOP_get_version,
 GNTTABOP_swap_grant_ref, GNTTABOP_cache_flush) = range(13)  # fmt: skip
MAP_REF: Final = Struct("<QIIHhIQ")  # host_addr flags ref dom status handle dev_bus_addr
UNMAP_REF: Final = Struct("<QQIhxx")  # host_addr dev_bus_addr handle status
UNMAP_REPLACE: Final = Struct("<QQIhxx")  # host_addr new_addr handle status
SETUP_TABLE: Final = Struct("<HxxIhxxxxxxQ")  # dom nr_frames status frame_list
TRANSFER: Final = Struct("<QHxxIhxxxxxx")  # mfn domid ref status
COPY: Final = Struct("<QHHxxxxQHHxxxxHHhxx")  # source: ref | gmfn, domid, offset; dest: the same; len flags status
QUERY_SIZE: Final = Struct("<HxxIIhxx")  # dom nr_frames max_nr_frames status
SET_VERSION: Final = Struct("<I")
GET_STATUS_FRAMES: Final = Struct("<IHhQ")  # nr_frames dom status frame_list
GET_VERSION: Final = Struct("<HHI")  # dom pad version
SWAP_REF: Final = Struct("<IIhxx")  # ref_a ref_b status
CACHE_FLUSH: Final = Struct("<QHHI")  # dev_bus_addr offset length op

GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly, GNTMAP_application_map, GNTMAP_contains_pte = (1 << n for n in range(5))
GNTMAP_guest_avail0: Final = 16
GNTCOPY_source_gref, GNTCOPY_dest_gref = 1, 2
GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL, GNTTAB_CACHE_SOURCE_GREF = 1, 2, 1 << 31

# --- status ----------------------------------------------------------------------------------------------------------------
GNTST_okay: Final = 0
(GNTST_general_error, GNTST_bad_domain, GNTST_bad_gntref, GNTST_bad_handle, GNTST_bad_virt_addr, GNTST_bad_dev_addr,
 GNTST_no_device_space, GNTST_permission_denied, GNTST_bad_page, GNTST_bad_copy_arg, GNTST_address_too_big, GNTST_eagain,
 GNTST_no_space) = range(-1, -14, -1)  # fmt: skip
GNTST_NAMES: Final = ("okay", "general_error", "bad_domain", "bad_gntref", "bad_handle", "bad_virt_addr", "bad_dev_addr",
                      "no_device_space", "permission_denied", "bad_page", "bad_copy_arg", "address_too_big", "eagain", "no_space")  # fmt: skip
