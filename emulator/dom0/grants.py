"""What a backend needs of a guest's grant table: the frame behind a reference, kept in use for as long as it is touched.

Domain-0 is Python in the same process and reads a granted frame where it lies, in the guest's own machine memory. What a map by
grant_table_op would guarantee holds all the same: the entry is checked, marked as in use (so that the guest's
gnttab_end_foreign_access sees it), and the frame of a writable use keeps its type, so that it cannot become a page table while
data is put into it.
"""

from __future__ import annotations

from typing import Protocol


class GrantError(Exception):
    """A reference that may not be used so; the text names it and the check that failed."""


class GrantAccess(Protocol):
    """The grants that a guest gives to Domain-0."""

    def begin(self, gref: int, write: bool) -> int:
        """The machine frame, in use from now on (for writing too if `write`). GrantError if the guest does not grant that."""

    def end(self, gref: int, write: bool) -> None:
        """One `begin` of the same arguments is over."""
