"""What every device's backend does on xenbus: its nodes, its handshake carried out, its end. A device adds its ring.

    /local/domain/N/device/KIND/ID        the frontend's directory, the guest's
    /local/domain/0/backend/KIND/N/ID     the backend's, which the guest may read
    /libxl/N/device/KIND/ID               the toolstack's note of both

All of it runs in the domain's holder, between two slices or in the guest's own hypercall.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Protocol

from emulator.abi.xenbus import XENBUS_INITIALISING
from emulator.dom0.grants import GrantError
from emulator.dom0.xenbus.handshake import BackendHandshake, Command, Connect, Disconnect, SwitchTo
from emulator.dom0.xenbus.timeline import NODES_KEPT, Waiting, waiting
from emulator.dom0.xenstore import Perm, Store
from emulator.dom0.xenstore.tree import READ

_LOOKED_AT: Final = 2 * NODES_KEPT  # nodes of a frontend's directory, whatever a guest has made there


class BackendSide(Protocol):
    """What xenbus needs of the guest."""

    domid: int

    def log(self, level: str, text: str) -> None: ...


class XenbusBackend(ABC):
    """`kind`: vbd, vif; `label`: the device's name for people."""

    def __init__(self, kind: str, devid: int, label: str, side: BackendSide, store: Store) -> None:
        self.kind, self.devid, self.label = kind, devid, label
        self._guest, self._store = side, store
        self.handshake = BackendHandshake()
        self.trouble = ""  # why the device was closed on the frontend
        self.closed = threading.Event()  # nothing of it is held any more
        self.front = f"/local/domain/{side.domid}/device/{kind}/{devid}"
        self.back = f"/local/domain/0/backend/{kind}/{side.domid}/{devid}"
        self._libxl = f"/libxl/{side.domid}/device/{kind}/{devid}"
        self._seen: dict[str, str] = {}  # the frontend's directory when its state last changed

    @abstractmethod
    def connect(self) -> None:
        """Read the frontend's nodes and take its ring. GrantError or ValueError, with nothing held, says why not."""

    @abstractmethod
    def opened(self) -> None:
        """The ring is there, and the frontend is told: see what waits in it."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let ring, grants and event channels go."""

    @abstractmethod
    def removed(self) -> None:
        """The nodes are gone: whoever keeps the device forgets it."""

    # --- nodes -----------------------------------------------------------------------------------------------------------------

    def publish(self, kind: str, back: Mapping[str, str], front: Mapping[str, str], offers: Mapping[str, str]) -> None:
        """The nodes as libxl writes them for a backend of `kind` (qdisk, vif), then what this backend can do; the handshake starts."""
        domid, state = self._guest.domid, str(XENBUS_INITIALISING)
        both = {"frontend": self.front, "backend": self.back}
        self._write(self.back, {"frontend": self.front, "frontend-id": str(domid), "online": "1", "state": state, **back},
                    (Perm(0, 0), Perm(domid, READ)))  # fmt: skip
        self._write(self.front, {"backend": self.back, "backend-id": "0", "state": state, **front}, (Perm(domid, 0), Perm(0, READ)))
        self._write(self._libxl, {**both, "type": kind}, (Perm(0, 0),))
        self.handshake.timeline.wrote("toolstack", {**both, **back, **front})
        self._seen = self._frontend_nodes()
        self.tell(offers)
        self.run(self.handshake.start())

    def tell(self, nodes: Mapping[str, str]) -> None:
        """Writes into the backend's directory, for the frontend to read."""
        self._write(self.back, nodes, ())
        self.handshake.timeline.wrote("backend", nodes)

    def number(self, key: str, limit: int, default: int | None = None) -> int:
        """A number that the frontend wrote; GrantError when it is none."""
        text = self._store.read(f"{self.front}/{key}")
        if text is None and default is not None:
            return default
        if text is None or not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > limit:
            raise GrantError(f"its {key} is {ascii(text)[:40]}")
        return int(text)

    def _write(self, top: str, nodes: Mapping[str, str], perms: tuple[Perm, ...]) -> None:
        """Nodes below `top`, which gets `perms`; they inherit them."""
        with self._store.changing():
            if perms:
                self._store.write(top, "")
                self._store.set_permissions(top, perms)
            for key, value in nodes.items():
                self._store.write(f"{top}/{key}", value)

    def _frontend_nodes(self) -> dict[str, str]:
        return {path[len(self.front) + 1 :]: value for path, value in self._store.subtree(self.front, _LOOKED_AT) if path != self.front}

    # --- the handshake ---------------------------------------------------------------------------------------------------------

    def frontend_changed(self, value: str | None) -> None:
        """The frontend's state node reads `value` now (None: it is gone)."""
        state = int(value) if value and value.isascii() and value.isdigit() and len(value) < 4 else 0
        if state != self.handshake.frontend:
            there, before = self._frontend_nodes(), self._seen
            self._seen = there
            self.handshake.timeline.wrote("frontend", {k: v for k, v in there.items() if k != "state" and before.get(k) != v})
        self.run(self.handshake.frontend_changed(state))

    def run(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SwitchTo):
                self._store.write(f"{self.back}/state", str(command.state))
            elif isinstance(command, Connect):
                self._connect()
            elif isinstance(command, Disconnect):
                self.disconnect()
            else:
                for path in (self.front, self.back, self._libxl):
                    self._store.remove(path)
                self.removed()

    def _connect(self) -> None:
        try:
            self.connect()
        except (GrantError, ValueError) as bad:
            self.fail(f"cannot connect: {bad}")
            return
        self.trouble = ""
        self.run(self.handshake.connected())
        self.opened()

    def detach(self, force: bool = False) -> None:
        """Unplug."""
        self._store.write(f"{self.back}/online", "0")
        self.run(self.handshake.detach(force))

    def fail(self, why: str) -> None:
        """Close the device on this frontend, and say why; the guest's other devices and other guests are not concerned."""
        self.trouble = why
        self._guest.log("warning", f"{self.label} closed: {why}")
        self.run(self.handshake.failed())

    def forget(self) -> None:
        """The guest is back at a moment when this device was not there: nothing of it is in its memory or its nodes."""
        if self.handshake.removed:
            return  # somebody took its nodes away while another device was forgotten
        self.handshake.attached, self.handshake.removed = False, True
        self._store.remove(self.front)
        self.removed()

    def waiting(self) -> Waiting | None:
        """Who is to move next."""
        state = self.handshake
        if state.removed:
            return None
        return waiting(state.frontend, state.state, online=state.online, trouble=self.trouble)
