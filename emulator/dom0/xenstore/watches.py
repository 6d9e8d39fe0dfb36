"""Watches of all connections, found by path: an event looks at its path's ancestors, not at every watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.dom0.xenstore.tree import ancestors

if TYPE_CHECKING:
    from emulator.dom0.xenstore.server import Connection


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    connection: Connection
    path: str  # absolute, or special: @introduceDomain
    token: bytes
    relative: bool  # asked for relative to the domain's path, so events are too
    serial: int  # order of registration, over the whole store

    def shown(self, path: str) -> str:
        """An event's path as this watcher is told it (get_watch_path)."""
        if not self.relative:
            return path
        base = self.connection.home
        return path[len(base) :].removeprefix("/") if path.startswith(base) else path


class Watches:
    def __init__(self) -> None:
        self._by_path: dict[str, dict[int, Watch]] = {}
        self._serial = 0

    def add(self, connection: Connection, path: str, token: bytes, relative: bool) -> Watch:
        self._serial += 1
        watch = Watch(connection, path, token, relative, self._serial)
        self._by_path.setdefault(path, {})[watch.serial] = watch
        return watch

    def remove(self, watch: Watch) -> None:
        here = self._by_path[watch.path]
        del here[watch.serial]
        if not here:
            del self._by_path[watch.path]

    def match(self, path: str, exact: bool) -> list[Watch]:
        """Watches that an event on `path` concerns, in the order of their connections and then of their registration."""
        places = (path,) if exact or path.startswith("@") else tuple(ancestors(path))
        found = [watch for place in places for watch in self._by_path.get(place, {}).values()]
        found.sort(key=lambda watch: (watch.connection.serial, watch.serial))
        return found
