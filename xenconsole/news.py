"""Console output that nobody has looked at: activity and bells, by domain. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from emulator.control.views import DomainView


class News:
    """Feed it each overview with the consoles in front; `of` then says "", "activity" or "bell" of every domain."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}
        self.of: dict[int, str] = {}

    def feed(self, domains: Iterable[DomainView], front: Collection[int]) -> None:
        of: dict[int, str] = {}
        for view in domains:
            now = (view.console_end, view.console_bell)
            if view.domid in front or view.domid not in self._seen:
                self._seen[view.domid] = now
            end, bell = self._seen[view.domid]
            of[view.domid] = "bell" if view.console_bell > bell else "activity" if view.console_end > end else ""
        self._seen = {domid: seen for domid, seen in self._seen.items() if domid in of}
        self.of = of
