"""Backends of one guest hear of their frontends' state nodes by watches, over one Domain-0 connection to the store.

An event is served in the domain's turn alone: at once when its holder changed the node (the guest's own writes, in the middle of its
kick, and the toolstack's), else by a message, when a tool on the store's socket or another guest did. So backends need no lock and no
thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from emulator.dom0.xenstore import Store, wire
from emulator.hypervisor.mailbox import Message, ToBackend


class Holdable(Protocol):
    """What is needed of a domain."""

    receivers: dict[str, Callable[[bytes], None]]

    def held_here(self) -> bool: ...
    def post(self, message: Message) -> None: ...


class FrontendWatch:
    """Watches state nodes of a domain's devices; `watch(path, heard)` calls `heard(value or None)` at once and at every change. `name`:
    the receiver's, of messages to itself."""

    def __init__(self, store: Store, domain: Holdable, name: str) -> None:
        self._store, self._domain, self._name = store, domain, name
        self._connection = store.connect(0)
        self._connection.on_output = self._changed
        domain.receivers[name] = lambda _: self._serve()
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

    def _changed(self) -> None:
        if self._domain.held_here():
            self._serve()
        else:
            self._domain.post(ToBackend(self._name, b""))

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
