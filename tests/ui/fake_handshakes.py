"""Handshakes for the fake engine: a disk that is connected, a card that waits for its driver, a disk that was closed for what it did."""

from __future__ import annotations

from emulator.control.handshakeviews import HandshakeStepView, HandshakeView
from tests.ui.fake_engine import START_UNIX

_DISK = (("sectors", "8388608"), ("sector-size", "512"), ("feature-flush-cache", "1"), ("multi-queue-max-queues", "4"))
_RING = (("ring-ref", "8"), ("event-channel", "20"), ("protocol", "x86_64-abi"), ("feature-persistent", "1"))


def _steps(start: float, *rows: tuple[float, str, str, str, tuple[tuple[str, str], ...]]) -> tuple[HandshakeStepView, ...]:
    return tuple(HandshakeStepView(start + after, who, before, state, nodes) for after, who, before, state, nodes in rows)


def _view(device: str, kind: str, devid: int, steps: tuple[HandshakeStepView, ...], **fields: str | int) -> HandshakeView:
    paths = {"frontend_path": f"/local/domain/4/device/{kind}/{devid}", "backend_path": f"/local/domain/0/backend/{kind}/4/{devid}"}
    return HandshakeView(device, kind, devid, since_unix=steps[-1].time_unix, steps=steps, **paths, **fields)  # type: ignore[arg-type]


def handshake_views(domid: int, now_ns: int) -> tuple[HandshakeView, ...]:
    """Debian has three devices, the others none."""
    if domid != 4:
        return ()
    born = START_UNIX + 2.0
    disk = _steps(
        born,
        (0.0, "toolstack", "unknown", "initialising", ()),
        (0.004, "backend", "initialising", "init-wait", _DISK),
        (1.21, "frontend", "initialising", "initialised", _RING),
        (1.212, "backend", "init-wait", "connected", ()),
        (1.35, "frontend", "initialised", "connected", (("feature-persistent", "1"),)),
    )
    card = _steps(born, (0.001, "toolstack", "unknown", "initialising", ()), (0.006, "backend", "initialising", "init-wait", (("feature-sg", "1"),)))
    bad = _steps(
        born + 20,
        (0.0, "toolstack", "unknown", "initialising", ()),
        (0.002, "backend", "initialising", "init-wait", ()),
        (0.5, "frontend", "initialising", "connected", (("ring-ref", "9\x1b[2J"),)),
        (0.501, "backend", "init-wait", "connected", ()),
        (12.0, "backend", "connected", "closing", ()),
    )
    return (
        _view("xvda", "vbd", 51712, disk, frontend="connected", backend="connected"),
        _view("vif4.0", "vif", 0, card, frontend="initialising", backend="init-wait", waiter="backend", waits_for="frontend",
              waits="the backend waits for the frontend to grant a ring and an event channel (initialised or connected): no driver has yet"),
        _view("xvdb", "vbd", 51728, bad, frontend="connected", backend="closing", waiter="backend", waits_for="frontend", forgotten=3,
              waits="the backend waits for the frontend to close (closed): req_prod 0x901 is past the ring",
              trouble="req_prod 0x901 is 2305 past rsp_prod 0x0, the ring has 32 slots"),
    )  # fmt: skip
