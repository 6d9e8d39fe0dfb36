"""Backends of one guest hear of their frontends' state nodes by watches, over one Domain-0 connection to the store.

An event is served at once, by whoever changed the node: for the guest's own writes that is its holder, in the middle of the
guest's kick; Domain-0's tools change such nodes in the holder's turn. So backends need no lock and no thread.
"""

from __future__ import annotations

from collections.abc import Callable

from emulator.dom0.xenstore import Store, wire


class FrontendWatch:
    """Watches state nodes; `watch(path, heard)` calls `heard(value or None)` at once and at every change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection = store.connect(0)
        self._connection.on_output = self._serve
        self._heard: dict[str, Callable[[str | None], None]] = {}
        self._serving = False
        self.deaf = False  # events are dropped: the store is being put back to a snapshot

    def watch(self, path: str, heard: Callable[[str | None], None]) -> None:
        self._heard[path] = heard
        self._ask(wire.XS_WATCH, path)

    def unwatch(self, path: str) -> None:
        if self._heard.pop(path, None) is not None:
            self._ask(wire.XS_UNWATCH, path)

    def close(self) -> None:
        self._heard.clear()
        with self._store.changing():
            self._connection.close()

    def _ask(self, kind: int, path: str) -> None:
        self._connection.feed(wire.message(kind, 0, 0, path.encode() + b"\0fe\0"))
        self._serve()

    def _serve(self) -> None:
        """Take events until none is left; what a handler writes may bring more, which this same loop takes."""
        if self._serving:
            return
        self._serving = True
        try:
            while self._connection.pending:
                data = self._connection.take(1 << 20)
                while data:
                    kind, _, _, size = wire.HEADER.unpack_from(data)
                    payload, data = data[wire.HEADER.size : wire.HEADER.size + size], data[wire.HEADER.size + size :]
                    if kind == wire.XS_WATCH_EVENT:
                        path = wire.strings(payload)[0].decode("utf-8", "replace")
                        heard = self._heard.get(path)
                        if heard is not None and not self.deaf:
                            heard(self._store.read(path))
        finally:
            self._serving = False
