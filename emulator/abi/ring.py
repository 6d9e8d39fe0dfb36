"""The indices of a shared ring (public/io/ring.h, struct sring): byte offsets in its first page."""

from __future__ import annotations

from typing import Final

REQ_PROD: Final = 0
REQ_EVENT: Final = 4
RSP_PROD: Final = 8
RSP_EVENT: Final = 12
RING_HEADER: Final = 64
"""Where the first slot lies."""
