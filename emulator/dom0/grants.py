"""What a backend needs of a guest's grant table: the frames behind references.

Domain-0 is Python in the same process and reads a granted frame where it lies, in the guest's own machine memory, while the guest
stands still. So a use is over before the guest could see it: what goes to a device is copied when its request is taken; what comes
from one is put into the frame that the entry grants at that moment. Nothing is pinned in between. A guest that revokes a grant in
flight gets an error and no byte; one that grants another frame by the same entry gets the data there. Only what stays in use, a
ring, is held as a map by grant_table_op would hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class GrantError(Exception):
    """A reference that may not be used so; the text names it and the check that failed."""


class GrantAccess(Protocol):
    """The grants that a guest gives to Domain-0."""

    def begin(self, gref: int, write: bool) -> int:
        """A machine frame to read, and to write if `write`, until `end`; the guest sees the entry in use. GrantError."""

    def end(self, gref: int, write: bool) -> None:
        """One `begin` of the same arguments is over."""


class GrantLook(GrantAccess, Protocol):
    """The same for uses that are over before the guest runs again."""

    def look(self, grefs: Sequence[int], write: bool) -> list[int]:
        """The machine frames, good until the guest runs again; each may be written if `write`. GrantError if one is not granted so."""
