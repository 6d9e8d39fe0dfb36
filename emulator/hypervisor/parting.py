"""How a domain leaves the others: who waits for it hears that it is gone, and what others still map of it outlives it.

A frame that another domain maps stays as it is until it is unmapped there, as Xen keeps the pages of a dying domain while they have
references. The host's pool counts such frames as the dead domain's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.hypervisor.grants.mappings import pin_kinds
from emulator.hypervisor.grants.operations import Unmap
from emulator.hypervisor.grants.peers import Answer, Request, forget_asks, tell, unclaimed

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.mailbox import PeerRequest


class Remnants:
    """The frames of a domain that is gone which others map still. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pins: dict[int, tuple[int, int]] = {}  # by reference: the frame, and how many pins
        self._on_change: Callable[[int], None] = lambda frames: None

    def begin(self, domain: Domain) -> None:
        self._pins = {ref: (active.mfn, sum(active.pins)) for ref, active in domain.grants.active.items()
                      if active.mfn >= 0 and active.domid not in (0, domain.domid)}  # fmt: skip

    @property
    def frames(self) -> frozenset[int]:
        with self._lock:
            return frozenset(mfn for mfn, _pins in self._pins.values())

    def watch(self, on_change: Callable[[int], None]) -> None:
        """`on_change` hears how many frames there are, now and whenever one goes."""
        with self._lock:
            self._on_change = on_change
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            self._on_change(len({mfn for mfn, _pins in self._pins.values()}))

    def hear(self, request: PeerRequest) -> None:
        """What others tell a domain that is gone: only that they have unmapped something matters."""
        if not isinstance(request, Request):
            return
        for _key, operation in request.operations:
            if isinstance(operation, Unmap):
                with self._lock:
                    mfn, pins = self._pins.pop(operation.ref, (0, 0))
                    if not pins:
                        continue
                    if pins > len(operation.kinds):
                        self._pins[operation.ref] = mfn, pins - len(operation.kinds)
                self._tell()


def drain(domain: Domain) -> list[PeerRequest]:
    """The requests that wait, but for those that nobody waits for: these are carried out. The domain takes no more."""
    left: list[PeerRequest] = []
    while domain.requests:
        request = domain.requests.popleft()
        if isinstance(request, Request) and request.back is None:
            request.apply(domain)
        else:
            left.append(request)
    domain.remnants.begin(domain)
    return left


def part(domain: Domain, requests: list[PeerRequest]) -> None:
    """Nobody waits for this domain any more, and what it mapped of others is theirs alone again."""
    for mapping in domain.mappings.release():
        if mapping.peer is not None:
            tell(mapping.peer, Unmap(mapping.ref, pin_kinds(mapping.flags)))
    for number, port in tuple(domain.events.ports.items()):
        domain.events.part(number, port)
    for request in requests:
        request.gone(domain.domid)
    while (message := domain.mailbox.take()) is not None:
        if isinstance(message, Answer):
            for _key, reply in message.replies:
                unclaimed(reply)
    for vcpu in domain.vcpus:
        forget_asks(vcpu)
