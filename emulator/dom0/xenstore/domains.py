"""What a domain's corner of the store looks like at its birth, after libxl (libxl_create.c, libxl_dom.c, libxl_console.c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from emulator.dom0.xenstore.transaction import Change
from emulator.dom0.xenstore.tree import READ, Node, Perm, Perms, find, parent_of

DOM0_NODES: Final[Mapping[str, str]] = {  # xenstored's own and xen-init-dom0's
    "/tool/xenstored": "",
    "/local/domain/0/domid": "0",
    "/local/domain/0/name": "Domain-0",
    "/local/domain/0/backend": "",
    "/vm": "",
    "/libxl": "",
}

# Nodes the guest owns (libxl's rwperm), made empty.
GUEST_OWNED: Final = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)
GUEST_READ: Final = ("cpu", "memory", "device", "control")

XENBUS_STATE_INITIALISING: Final = "1"
CONSOLE_LIMIT_BYTES: Final = 1048576  # LIBXL_XENCONSOLE_LIMIT


def home(domid: int) -> str:
    return f"/local/domain/{domid}"


def console_backend(domid: int) -> str:
    return f"/local/domain/0/backend/console/{domid}/0"


def standard_nodes(
    domid: int,
    *,
    name: str,
    uuid: str,
    memory_kib: int,
    maxmem_kib: int,
    vcpus: int,
    console_gfn: int,
    console_port: int,
    store_gfn: int,
    store_port: int,
    maxvcpus: int = 0,
) -> dict[str, str]:
    """The nodes of a PV guest under /local/domain/N, in libxl's order; frame numbers are machine frames for a PV guest.

    `vcpus` are online; up to `maxvcpus` (0: the same) more are listed offline.
    """
    nodes = {
        "vm": f"/vm/{uuid}",
        "name": name,
        **dict.fromkeys(GUEST_READ, ""),
        **dict.fromkeys(GUEST_OWNED, ""),
        "control/platform-feature-multiprocessor-suspend": "1",
        "control/platform-feature-xs_reset_watches": "1",
        "memory/static-max": str(maxmem_kib),
        "memory/target": str(memory_kib),
        "memory/videoram": "0",
        "domid": str(domid),
        "store/port": str(store_port),
        "store/ring-ref": str(store_gfn),
    }
    for vcpu in range(max(vcpus, maxvcpus)):
        nodes[f"cpu/{vcpu}/availability"] = "online" if vcpu < vcpus else "offline"
    nodes |= {
        "console/backend": console_backend(domid),
        "console/backend-id": "0",
        "console/limit": str(CONSOLE_LIMIT_BYTES),
        "console/type": "xenconsoled",
        "console/output": "pty",
        "console/tty": "",
        "console/port": str(console_port),
        "console/ring-ref": str(console_gfn),
    }
    return nodes


def domain_nodes(domid: int, name: str, nodes: Mapping[str, str]) -> list[Change]:
    """`nodes` with libxl's permissions, and what belongs to them outside of the domain's own directory. Parents first."""
    read_only: Perms = (Perm(0, 0), Perm(domid, READ))
    own: Perms = (Perm(domid, 0),)
    top = home(domid)
    given = {"name": name, **nodes}
    made: dict[str, Change] = {}

    def add(path: str, value: str, perms: Perms) -> None:
        made[path] = Change(path, value.encode(), perms)

    add(top, "", read_only)
    for at, value in given.items():
        guests = at in GUEST_OWNED or at.startswith(("data/", "drivers/", "feature/", "attr/", "error/"))
        perms = own if guests else read_only
        if at == "console/backend-id":
            perms = (Perm(domid, 0), Perm(0, READ))
        above = at
        while above := above.rpartition("/")[0]:
            if f"{top}/{above}" not in made and above not in given:
                add(f"{top}/{above}", "", read_only)
        add(f"{top}/{at}", value, perms)
    vm = given.get("vm", "")
    if vm.startswith("/vm/"):
        add(vm, "", read_only)
        add(f"{vm}/uuid", vm.removeprefix("/vm/"), read_only)
        add(f"{vm}/name", name, read_only)
    add(f"/libxl/{domid}", "", (Perm(0, 0),))
    add(f"/libxl/{domid}/device", "", (Perm(0, 0),))
    add(f"/libxl/{domid}/type", "pv", (Perm(0, 0),))
    if "console/ring-ref" in given:
        back = console_backend(domid)
        add(back, "", read_only)
        for key, value in (
            ("frontend", f"{top}/console"),
            ("frontend-id", str(domid)),
            ("online", "1"),
            ("state", XENBUS_STATE_INITIALISING),
            ("protocol", "vt100"),
        ):
            add(f"{back}/{key}", value, read_only)
    return [made[path] for path in sorted(made, key=lambda path: path.count("/"))]


def tops(nodes: Sequence[Change]) -> list[str]:
    """The paths among them whose parents are not."""
    paths = {node.path for node in nodes}
    return [node.path for node in nodes if parent_of(node.path) not in paths]


def roots(domid: int, root: Node) -> list[str]:
    """The directories that belong to a domain, as far as the store tells."""
    if domid == 0:
        return [home(0)]
    found = [home(domid), f"/libxl/{domid}"]
    vm = find(root, f"{home(domid)}/vm")
    if vm is not None and vm.value.startswith(b"/vm/") and len(vm.perms) and vm.perms[0].domid == 0:
        found.append(vm.value.decode("ascii", "replace"))
    kinds = find(root, "/local/domain/0/backend")
    for kind in kinds.children if kinds is not None else ():
        if find(root, f"/local/domain/0/backend/{kind}/{domid}") is not None:
            found.append(f"/local/domain/0/backend/{kind}/{domid}")
    return found
