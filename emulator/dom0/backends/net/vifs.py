"""The network interfaces of one guest: there from its start, plugged in and out while it runs, saved with its snapshots.

Everything here runs in the domain's holder but `close`, which runs when nobody holds it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from emulator.dom0.backends.block.disks import DiskSide
from emulator.dom0.backends.net.device import Vif, VifState
from emulator.dom0.backends.net.side import FramesIn
from emulator.dom0.network import Frame, Networks, mac_text
from emulator.dom0.vifspec import MAX_VIFS, VifSpec, numbered
from emulator.dom0.xenbus import Detach, FrontendWatch
from emulator.dom0.xenstore import Store
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


class VifSide(DiskSide):
    """A real domain as an interface sees it (side.GuestSide)."""

    def __init__(self, domain: Domain, networks: Networks) -> None:
        super().__init__(domain)
        self._alarms = networks.alarms

    def send(self, name: str, frames: tuple[Frame, ...]) -> None:
        if not self.closed:
            self._domain.post(FramesIn(name, frames))

    def wake(self, name: str, at_ns: int) -> None:
        self._alarms.after(max(0, at_ns - self.now()), lambda: self.send(name, ()))

    @property
    def replaying(self) -> bool:
        return self._domain.replaying

    def now(self) -> int:
        return self._domain.clock.now()


@dataclass(frozen=True, slots=True)
class AttachVif:
    """An order: plug this interface in."""

    spec: VifSpec


class GuestVifs:
    def __init__(self, domain: Domain, store: Store, networks: Networks) -> None:
        self._domain, self._store, self._networks = domain, store, networks
        domain.receivers["vifs"] = cast("Callable[[bytes], None]", self.ordered)
        self._side: VifSide | None = None
        self._watch: FrontendWatch | None = None
        self.devices: dict[int, Vif] = {}
        self._past = (0, 0)  # traffic of interfaces that are gone

    # --- plugging --------------------------------------------------------------------------------------------------------------

    def ordered(self, order: AttachVif | Detach) -> Vif:
        """What a Plug message brings. Raises UserError."""
        if isinstance(order, Detach):
            vif = self.find(order.which)
            vif.detach(order.force)
            return vif
        return self.attach(order.spec)

    def attach(self, spec: VifSpec) -> Vif:
        """Plug an interface in. Raises UserError."""
        if spec.devid < 0:
            free = next((number for number in range(MAX_VIFS) if number not in self.devices), None)
            if free is None:
                raise UserError(f"{MAX_VIFS} interfaces are the most")
            spec = numbered(spec, self._domain.name, free)
        if spec.devid in self.devices:
            raise UserError(f"interface {spec.devid} is there already", fix="another devid=, or network-detach it first")
        if self._side is None or self._watch is None:
            self._side, self._watch = VifSide(self._domain, self._networks), FrontendWatch(self._store, self._domain, "vif-states")
        if spec.uplink is not None and not self._domain.replaying:
            self._networks.grant(spec.bridge, spec.mac, spec.uplink)
        network = self._networks.get(spec.bridge)
        vif = Vif(spec, network, self._side, self._store, self._removed)
        if network.shared(spec.mac):
            self._side.log("warning", f"{vif.name}: another interface on {spec.bridge} has the address {mac_text(spec.mac)}")
        self.devices[spec.devid] = vif
        self._domain.events.backends[vif.event_name] = vif.kick
        # Frames are a message of their own kind, no bytes.
        self._domain.receivers[vif.event_name] = cast("Callable[[bytes], None]", vif.received)
        vif.advertise()
        self._watch.watch(f"{vif.front}/state", vif.frontend_changed)
        return vif

    def find(self, which: str) -> Vif:
        """By number, address, or name (vif3.0); "" is the first. Raises UserError. Any thread."""
        for vif in tuple(self.devices.values()):
            if not which or which.lower() in (str(vif.spec.devid), mac_text(vif.spec.mac), vif.name):
                return vif
        there = ", ".join(f"{vif.spec.devid} ({mac_text(vif.spec.mac)})" for vif in tuple(self.devices.values())) or "none"
        raise UserError(f"no interface {ascii(which)[1:-1][:40]}".rstrip(), why=f"there are: {there}")

    def _removed(self, vif: Vif) -> None:
        """An interface's nodes are gone: forget it."""
        assert self._watch is not None
        self._watch.unwatch(f"{vif.front}/state")
        del self.devices[vif.spec.devid]
        del self._domain.events.backends[vif.event_name]
        del self._domain.receivers[vif.event_name]
        self._left(vif)
        self._past = self._past[0] + vif.counters.rx_bytes, self._past[1] + vif.counters.tx_bytes
        vif.close()

    def _left(self, vif: Vif) -> None:
        if not self._domain.replaying:
            self._networks.left(vif.spec.bridge, vif.spec.mac)

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent by the guest since its start. Any thread."""
        now = [vif.counters for vif in tuple(self.devices.values())]
        return self._past[0] + sum(c.rx_bytes for c in now), self._past[1] + sum(c.tx_bytes for c in now)

    def close(self) -> None:
        """The guest is gone."""
        if self._watch is not None:
            self._watch.close()
        for vif in self.devices.values():
            self._left(vif)
            vif.close()
        self.devices.clear()
        if self._side is not None:
            self._side.closed = True
            self._side.memory = memoryview(b"")

    # --- snapshots -------------------------------------------------------------------------------------------------------------

    def save(self) -> tuple[VifState, ...]:
        return tuple(vif.save() for vif in self.devices.values())

    def check(self, state: tuple[VifState, ...]) -> None:
        """UserError when the interfaces cannot go back to `state`."""
        for saved in state:
            vif = self.devices.get(saved.spec.devid)
            if vif is None or vif.spec != saved.spec:
                raise UserError(f"interface {saved.spec.devid} was there then and is not now", fix=f"network-attach '{saved.spec.text}' first")

    def pause(self) -> None:
        """The store is about to be put back: what changes in it now is no news."""
        if self._watch is not None:
            self._watch.deaf = True

    def load(self, state: tuple[VifState, ...]) -> None:
        """After the guest's memory, grants, event channels and nodes. Interfaces that came since are pulled out."""
        for saved in state:
            self.devices[saved.spec.devid].load(saved)
        if self._watch is not None:
            self._watch.deaf = False
        kept = {saved.spec.devid for saved in state}
        for vif in [one for one in self.devices.values() if one.spec.devid not in kept]:
            vif.forget()
