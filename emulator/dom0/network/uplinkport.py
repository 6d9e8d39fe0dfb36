"""An uplink on a port of a network, with what guests may reach through it: in all, and each interface for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from emulator.dom0.network.frame import Frame
from emulator.dom0.network.relay import Relay
from emulator.dom0.network.services import Services
from emulator.dom0.network.uplink import MAC, Uplink, UplinkSpec
from emulator.errors import UserError


def _made(spec: UplinkSpec) -> Uplink:
    try:
        return Uplink(spec)
    except ValueError as bad:
        raise UserError(f"{ascii(spec.subnet)[1:-1][:40]} is no subnet", why=str(bad)[:100], fix="10.0.2.0/24") from None


class Attachable(Protocol):
    """The network it hangs on."""

    def attach(self, sink: UplinkPort, mac: bytes | None = None) -> int: ...
    def detach(self, number: int) -> None: ...
    def send(self, number: int, frames: Sequence[Frame]) -> None: ...


class UplinkPort:
    """What the uplink answers itself goes back at once, in the sender's thread. Changed by one thread at a time."""

    name = "uplink"

    def __init__(self, network: Attachable, spec: UplinkSpec, granted: dict[bytes | None, Services] | None = None) -> None:
        """Raises UserError for a subnet that is none, and for ports of the loopback that others have."""
        self.uplink = _made(spec)
        self._network = network
        self.granted: dict[bytes | None, Services] = {}
        self.closed = False
        self._port = network.attach(self, MAC)
        try:
            for owner, services in {**(granted or {}), None: spec.services}.items():
                self.grant(owner, services)
        except UserError:
            self.close()
            raise

    def replaced(self, spec: UplinkSpec) -> UplinkPort:
        """One with another specification in its place; what interfaces were granted they keep. Raises UserError."""
        if spec.subnet == self.uplink.spec.subnet:
            self.grant(None, spec.services)
            return self
        _made(spec)
        self.close()
        return UplinkPort(self._network, spec, self.granted)

    def reopened(self) -> UplinkPort:
        """The same again after its `close`. Raises UserError."""
        spec = replace(self.uplink.spec, services=self.granted.get(None, Services()))
        return UplinkPort(self._network, spec, self.granted)

    def grant(self, owner: bytes | None, services: Services) -> None:
        """`owner`: an interface, None for all. What it was granted before is no more. Raises UserError."""
        relay = self.uplink.relay
        if relay is None:
            if not services.outward and not services.inward:
                self.granted[owner] = services
                return
            relay = self.uplink.relay = Relay(self.uplink.address, self._send, self.uplink.find)
        before = self.granted.get(owner, Services())
        relay.hush(owner)
        try:
            relay.listen(owner, services.inward)
        except UserError:
            relay.listen(owner, before.inward)
            raise
        self.granted[owner] = services
        relay.services = {(one, service.protocol, service.port): service for one, all_of in self.granted.items() for service in all_of.outward}

    def left(self, owner: bytes) -> None:
        """The interface is gone, and with it what it was granted and what it had open."""
        if owner in self.granted:
            self.grant(owner, Services())
            del self.granted[owner]
        self.uplink.left(owner)
        if self.uplink.relay is not None:
            self.uplink.relay.leave(owner)

    def _send(self, frames: list[Frame]) -> None:
        self._network.send(self._port, frames)

    def deliver(self, frames: list[Frame]) -> None:
        answers = [answer for frame in frames for answer in self.uplink.receive(frame)]
        if answers:
            self._network.send(self._port, answers)

    def close(self) -> None:
        self.closed = True
        self._network.detach(self._port)
        if self.uplink.relay is not None:
            self.uplink.relay.close()
