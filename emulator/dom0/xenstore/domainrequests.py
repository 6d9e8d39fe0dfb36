"""What Domain-0 asks about whole domains (tools/xenstore/xenstored_domain.c): INTRODUCE, RELEASE, RESUME, SET_TARGET and their like.

A domain of ours is introduced by the toolstack when it is built. RELEASE stops serving its ring, INTRODUCE serves it again; frame and
event channel are those the domain was built with, whatever the request says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.dom0.xenstore import wire
from emulator.dom0.xenstore.wire import RefusedError

if TYPE_CHECKING:
    from emulator.dom0.xenstore.server import Connection

DOMID_SELF: Final = 0x7FF0
_OK: Final = b"OK\0"


def introduce(asker: Connection, payload: bytes) -> bytes:
    """domid, gfn, event channel. Known already: its ring starts anew, and @introduceDomain does not fire again."""
    given = wire.strings(payload)
    if len(given) < 3 or wire.decimal(given[2]) < 1:
        raise RefusedError("EINVAL")
    domid = wire.decimal(given[0])
    if domid and not asker.store.reintroduce(domid):
        raise RefusedError("EINVAL")
    return _OK


def release(asker: Connection, payload: bytes) -> bytes:
    asker.store.let_go(_connected(asker, payload).domid)
    return _OK


def resume(asker: Connection, payload: bytes) -> bytes:
    """The domain goes on after a shutdown: the next one fires @releaseDomain again."""
    asker.store.resumed(_connected(asker, payload).domid)
    return _OK


def set_target(asker: Connection, payload: bytes) -> bytes:
    """The first domain (a device model's) may do what the second may."""
    given = wire.strings(payload)
    if len(given) < 2:
        raise RefusedError("EINVAL")
    domid, target = (_find(asker, wire.decimal(text)).domid for text in given[:2])
    asker.store.targets[domid] = target
    return _OK


def get_domain_path(asker: Connection, payload: bytes) -> bytes:
    return b"/local/domain/%d\0" % wire.decimal(wire.one_string(payload))


def is_domain_introduced(asker: Connection, payload: bytes) -> bytes:
    domid = wire.decimal(wire.one_string(payload))
    return b"T\0" if domid in (0, DOMID_SELF) or domid in asker.store.introduced else b"F\0"


def _connected(asker: Connection, payload: bytes) -> Connection:
    """onearg_domain."""
    domid = wire.decimal(wire.one_string(payload))
    if not domid:
        raise RefusedError("EINVAL")
    return _find(asker, domid)


def _find(asker: Connection, domid: int) -> Connection:
    """find_connected_domain."""
    if domid == 0:
        return asker
    if domid not in asker.store.introduced:
        raise RefusedError("ENOENT")
    found = asker.store.ring_of(domid)
    if found is None:
        raise RefusedError("EINVAL")
    return found
