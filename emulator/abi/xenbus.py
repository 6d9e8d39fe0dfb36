"""Device states as the two ends of a device write them into xenstore (io/xenbus.h, enum xenbus_state)."""

from __future__ import annotations

from typing import Final

XENBUS_UNKNOWN: Final = 0
XENBUS_INITIALISING: Final = 1
XENBUS_INIT_WAIT: Final = 2
XENBUS_INITIALISED: Final = 3
XENBUS_CONNECTED: Final = 4
XENBUS_CLOSING: Final = 5
XENBUS_CLOSED: Final = 6
XENBUS_STATE_NAMES: Final = ("unknown", "initialising", "init-wait", "initialised", "connected", "closing", "closed")


def state_name(state: int) -> str:
    """For people; a number that is no state stays a number."""
    return XENBUS_STATE_NAMES[state] if 0 <= state < len(XENBUS_STATE_NAMES) else str(state)
