"""The xenstore wire protocol as numbers and messages (io/xs_wire.h): a 16-byte header and at most 4096 bytes of payload."""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct("<IIII")  # struct xsd_sockmsg: type, req_id, tx_id, len

XS_CONTROL: Final = 0
XS_DIRECTORY: Final = 1
XS_READ: Final = 2
XS_GET_PERMS: Final = 3
XS_WATCH: Final = 4
XS_UNWATCH: Final = 5
XS_TRANSACTION_START: Final = 6
XS_TRANSACTION_END: Final = 7
XS_INTRODUCE: Final = 8
XS_RELEASE: Final = 9
XS_GET_DOMAIN_PATH: Final = 10
XS_WRITE: Final = 11
XS_MKDIR: Final = 12
XS_RM: Final = 13
XS_SET_PERMS: Final = 14
XS_WATCH_EVENT: Final = 15
XS_ERROR: Final = 16
XS_IS_DOMAIN_INTRODUCED: Final = 17
XS_RESUME: Final = 18
XS_SET_TARGET: Final = 19
XS_RESET_WATCHES: Final = 21
XS_DIRECTORY_PART: Final = 22

NAMES: Final = {number: name[3:] for name, number in tuple(globals().items()) if name.startswith("XS_")}

XENSTORE_PAYLOAD_MAX: Final = 4096
XENSTORE_ABS_PATH_MAX: Final = 3072
XENSTORE_REL_PATH_MAX: Final = 2048

# struct xenstore_domain_interface
XENSTORE_RING_SIZE: Final = 1024
REQ: Final = 0
RSP: Final = 1024
REQ_CONS: Final = 2048
REQ_PROD: Final = 2052
RSP_CONS: Final = 2056
RSP_PROD: Final = 2060
SERVER_FEATURES: Final = 2064
CONNECTION: Final = 2068
ERROR: Final = 2072
INTERFACE_SIZE: Final = 2076

XENSTORE_SERVER_FEATURE_RECONNECTION: Final = 1
XENSTORE_SERVER_FEATURE_ERROR: Final = 2
XENSTORE_CONNECTED: Final = 0
XENSTORE_RECONNECT: Final = 1
XENSTORE_ERROR_NONE: Final = 0
XENSTORE_ERROR_RINGIDX: Final = 2
XENSTORE_ERROR_PROTO: Final = 3


class RefusedError(Exception):
    """A request that is answered with XS_ERROR; `name` is the errno's name as it goes over the wire."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def message(kind: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, req_id, tx_id, len(payload)) + payload


def strings(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a payload; what follows the last NUL is not one."""
    return payload.split(b"\0")[:-1]


def one_string(payload: bytes) -> bytes:
    """The only string of a payload that ends with its only NUL, else EINVAL."""
    if not payload.endswith(b"\0") or payload.count(0) != 1:
        raise RefusedError("EINVAL")
    return payload[:-1]


def decimal(text: bytes) -> int:
    """An unsigned decimal of at most ten digits, else EINVAL."""
    if not text.isdigit() or len(text) > 10:
        raise RefusedError("EINVAL")
    return int(text)
