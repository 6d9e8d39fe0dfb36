"""XS_CONTROL, as `xenstore-control` sends it (tools/xenstore/xenstored_control.c): the commands that make sense here.

live-update has nothing to update, logfile and quota-soft nothing to act on: they are refused as unknown ones are. `memreport` answers
with its report instead of writing it to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from emulator.dom0.xenstore import wire
from emulator.dom0.xenstore.tree import walk
from emulator.dom0.xenstore.wire import XENSTORE_PAYLOAD_MAX, RefusedError

if TYPE_CHECKING:
    from emulator.dom0.xenstore.server import Connection

_OK: Final = b"OK\0"


def control(asker: Connection, payload: bytes) -> bytes:
    given = wire.strings(payload)
    command = _COMMANDS.get(given[0]) if given else None
    if command is None:
        raise RefusedError("EINVAL")
    try:
        return command[0](asker, [text.decode("ascii") for text in given[1:]])
    except UnicodeDecodeError:
        raise RefusedError("EINVAL") from None


def _check(asker: Connection, given: Sequence[str]) -> bytes:
    """The accounts that quotas go by against the tree itself; EIO tells of a bug of ours, and the log of what it is."""
    _no_more_than(given, 0)
    tree = asker.store.tree
    owned: dict[int, int] = {}
    held: dict[int, int] = {}
    for _, node in walk("/", tree.root):
        owner = node.perms[0].domid
        owned[owner] = owned.get(owner, 0) + 1
        held[owner] = held.get(owner, 0) + len(node.value)
    owned[0] -= 1  # the root is nobody's
    for name, found, kept in (("nodes", owned, tree.owned), ("bytes", held, tree.held)):
        for domid in found.keys() | kept.keys():
            if found.get(domid, 0) != kept.get(domid, 0):
                asker.store.log(f"check: domain {domid} owns {found.get(domid, 0)} {name}, accounted are {kept.get(domid, 0)}")
                raise RefusedError("EIO")
    return _OK


def _log(asker: Connection, given: Sequence[str]) -> bytes:
    if list(given) not in (["on"], ["off"]):
        raise RefusedError("EINVAL")
    asker.store.tracing = given[0] == "on"
    return _OK


def _memreport(asker: Connection, given: Sequence[str]) -> bytes:
    _no_more_than(given, 0)
    store = asker.store
    lines = [f"{sum(store.tree.owned.values())} nodes, {sum(store.tree.held.values())} bytes of values, {len(store.connections)} connections"]
    for domid in sorted(store.tree.owned):
        nodes, held = store.tree.owned[domid], store.tree.held.get(domid, 0)
        if nodes or held:
            lines.append(f"domain {domid}: {nodes} nodes, {held} bytes")
    for connection in store.connections.values():
        lines.append(f"connection {connection.serial} of domain {connection.domid}: {connection.account()}")
    return _text("\n".join(lines) + "\n")


def _print(asker: Connection, given: Sequence[str]) -> bytes:
    if len(given) != 1:
        raise RefusedError("EINVAL")
    asker.store.log(f"control: {given[0]}")
    return _OK


def _quota(asker: Connection, given: Sequence[str]) -> bytes:
    quotas = asker.store.quotas
    if not given:
        return _text("Quota settings:\n" + "".join(f"{name:<17}: {value:8d} {words}\n" for name, value, words in quotas.rows()))
    if given[0] == "set":
        if len(given) != 3 or not quotas.set(given[1], wire.decimal(given[2].encode())):
            raise RefusedError("EINVAL")
        return _OK
    _no_more_than(given, 1)
    domid = wire.decimal(given[0].encode())
    if domid and domid not in asker.store.introduced:
        raise RefusedError("ENOENT")
    ring = asker.store.ring_of(domid)
    watches, transactions, outstanding = (ring.account().watches, ring.account().transactions, ring.account().replies) if ring else (0, 0, 0)
    tree = asker.store.tree
    rows = (("nodes", tree.owned.get(domid, 0)), ("watches", watches), ("transactions", transactions), ("outstanding", outstanding),
            ("memory", tree.held.get(domid, 0)))  # fmt: skip
    return _text(f"Domain {domid}:\n" + "".join(f"{name:<16}: {value:8d}\n" for name, value in rows))


def _help(asker: Connection, given: Sequence[str]) -> bytes:
    _no_more_than(given, 0)
    return _text("".join(f"{name.decode()}\t{parameters}\n" for name, (_, parameters) in _COMMANDS.items()))


def _no_more_than(given: Sequence[str], most: int) -> None:
    if len(given) > most:
        raise RefusedError("EINVAL")


def _text(text: str) -> bytes:
    return text.encode("ascii", "replace")[: XENSTORE_PAYLOAD_MAX - 1] + b"\0"


_COMMANDS: Final[dict[bytes, tuple[Callable[[Connection, Sequence[str]], bytes], str]]] = {
    b"check": (_check, ""),
    b"log": (_log, "on|off"),
    b"memreport": (_memreport, ""),
    b"print": (_print, "<string>"),
    b"quota": (_quota, "[set <name> <val>|<domid>]"),
    b"help": (_help, ""),
}
