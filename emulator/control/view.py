"""What all views are."""

from __future__ import annotations

import msgspec


class View(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all views: immutable, compared by value."""
