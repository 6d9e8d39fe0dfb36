"""network-attach, network-detach, network-list and captures: interfaces of a running domain. Callable from any thread; UserError."""

from __future__ import annotations

import itertools
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.abi.xenbus import state_name
from emulator.dom0.backends.net.device import Vif
from emulator.dom0.backends.net.vifs import AttachVif
from emulator.dom0.files import user_path
from emulator.dom0.network import Capture, mac_text
from emulator.dom0.network.pcapng import MAX_CAPTURE
from emulator.dom0.turns import in_turn, plug, until_gone
from emulator.dom0.vifspec import parse_vif
from emulator.dom0.xenbus import Detach, Plug
from emulator.errors import UserError
from emulator.folders import user_folder

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest


@dataclass(frozen=True)
class VifReport:
    """One interface of a domain, for people and tools. Frames and bytes as the guest counts them."""

    name: str
    devid: int
    mac: str
    bridge: str
    backend_state: str
    frontend_state: str
    tx_frames: int
    tx_bytes: int
    tx_errors: int
    rx_frames: int
    rx_bytes: int
    rx_dropped: int
    queued: int
    throttled: int
    capture: str
    trouble: str


def attach(guest: Guest, text: str) -> str:
    """Plug an interface into a running domain; the guest finds it by itself. Returns its name."""
    spec = parse_vif(text, domain=guest.config.name)
    return str(plug(guest, Plug("vifs", AttachVif(spec))).label)


def detach(guest: Guest, which: str, force: bool = False) -> str:
    """Ask the guest to let an interface go, and wait until it has; by force without asking. Returns its name."""
    device: Vif = plug(guest, Plug("vifs", Detach(which, force)))
    return until_gone(guest, device).label


def start_capture(guest: Guest, which: str, path: Path, limit: int = MAX_CAPTURE) -> str:
    """Record all frames of an interface to a new pcapng file of at most `limit` bytes. Returns the interface's name."""

    def act() -> str:
        vif = guest.vifs.find(which)
        if vif.capture is not None:
            raise UserError(f"{vif.name} is captured to {vif.capture.path} already", fix="end that capture first")
        vif.capture = Capture(path, vif.name, limit)
        return vif.name

    return in_turn(guest, act)


def stop_capture(guest: Guest, which: str) -> Capture:
    """End a capture: the file is whole then."""

    def act() -> Capture:
        vif = guest.vifs.find(which)
        capture = vif.stop_capture()
        if capture is None:
            raise UserError(f"{vif.name} is not captured")
        return capture

    return in_turn(guest, act)


def toggle_capture(guest: Guest, which: str, where: str, limit: int = 0) -> str:
    """End the capture of an interface that runs, or start one; one line that says so.

    `which`: "" is the first interface. `where`: a file that is not there yet, or a folder; "" is `captures_folder()`. `limit`: bytes."""
    vif = guest.vifs.find(which)
    number = str(vif.spec.devid)
    if vif.capture is not None and not where:
        ended = stop_capture(guest, number)
        return f"{ended.frames} frames of {vif.name} are in {ended.path}" + (f" ({ended.trouble})" if ended.trouble else "")
    if not 0 <= limit <= MAX_CAPTURE:
        raise UserError(f"a capture of {limit >> 20} MiB", fix=f"at most {MAX_CAPTURE >> 20}")
    path = user_path(where, "capture") if where else captures_folder()
    if not where or os.path.isdir(path):
        path = _new_name(path, guest.name, vif.name)
    name = start_capture(guest, number, path, limit or MAX_CAPTURE)
    return f"{name} is captured to {path}, up to {(limit or MAX_CAPTURE) >> 20} MiB; the same command again ends it"


def captures_folder() -> Path:
    """Where captures without a name go: $XDG_STATE_HOME/xenconsole/captures, made when it is missing. Raises UserError."""
    folder = user_folder("state", "captures", what="captures")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as bad:
        raise UserError(f"no folder for captures, {folder}", why=bad.strerror or str(bad), fix="name a file") from bad
    return folder


def _new_name(folder: Path, domain: str, vif: str) -> Path:
    """A file that is not there, named after the domain, which chose its name freely, the interface and the time."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", domain).lstrip(".")[:60]
    stem = f"{plain}-{vif}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{stem}{f'-{number}' if number else ''}.pcapng" for number in itertools.count())
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def reports(guest: Guest) -> tuple[VifReport, ...]:
    """All interfaces of a domain."""
    return in_turn(guest, lambda: tuple(_report(vif) for vif in guest.vifs.devices.values()))


def _report(vif: Vif) -> VifReport:
    counters, state = vif.counters, vif.handshake
    return VifReport(
        vif.name, vif.spec.devid, mac_text(vif.spec.mac), vif.spec.bridge, state_name(state.state), state_name(state.frontend), counters.tx_frames,
        counters.tx_bytes, counters.tx_errors, counters.rx_frames, counters.rx_bytes, counters.rx_dropped,
        vif.queued, vif.bucket.waits if vif.bucket is not None else 0,
        str(vif.capture.path) if vif.capture is not None else "", vif.trouble,
    )  # fmt: skip
