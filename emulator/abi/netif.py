"""Network I/O rings (public/io/netif.h, ring.h): numbers and layouts.

    ring page   req_prod u32, req_event u32, rsp_prod u32, rsp_event u32, 48 bytes of padding, then 256 slots of 12 bytes (tx) or
                8 bytes (rx); a slot holds a request, or an extra info, until its response overwrites it
"""

from __future__ import annotations

import struct
from typing import Final

SLOTS: Final = 256
TX_SLOT: Final = 12
RX_SLOT: Final = 8

XEN_NETIF_NR_SLOTS_MIN: Final = 18
XEN_NETIF_MAX_TX_SIZE: Final = 0xFFFF

NETTXF_csum_blank: Final = 1
NETTXF_data_validated: Final = 2
NETTXF_more_data: Final = 4
NETTXF_extra_info: Final = 8

NETRXF_data_validated: Final = 1
NETRXF_csum_blank: Final = 2
NETRXF_more_data: Final = 4
NETRXF_extra_info: Final = 8

XEN_NETIF_EXTRA_TYPE_GSO: Final = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD: Final = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL: Final = 3
XEN_NETIF_EXTRA_TYPE_HASH: Final = 4
XEN_NETIF_EXTRA_TYPE_MAX: Final = 5
XEN_NETIF_EXTRA_FLAG_MORE: Final = 1

XEN_NETIF_GSO_TYPE_NONE: Final = 0
XEN_NETIF_GSO_TYPE_TCPV4: Final = 1
XEN_NETIF_GSO_TYPE_TCPV6: Final = 2

NETIF_RSP_DROPPED: Final = -2
NETIF_RSP_ERROR: Final = -1
NETIF_RSP_OKAY: Final = 0
NETIF_RSP_NULL: Final = 1

TX_REQUEST: Final = struct.Struct("<IHHHH")
"""gref, offset, flags, id, size: the first slot's size is the whole packet's."""
TX_RESPONSE: Final = struct.Struct("<Hh")
"""id, status."""
RX_REQUEST: Final = struct.Struct("<HHI")
"""id, padding, gref."""
RX_RESPONSE: Final = struct.Struct("<HHHh")
"""id, offset, flags, status: bytes of this slot, or NETIF_RSP_*."""
EXTRA_GSO: Final = struct.Struct("<BBHBBH")
"""type, flags, size of a segment's payload, GSO type, padding, features."""
EXTRA_MCAST: Final = struct.Struct("<BB6s")
"""type, flags, address."""
