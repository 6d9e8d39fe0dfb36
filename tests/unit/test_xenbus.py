"""The handshake as a script, and its timeline: who moved, what was written for it, who is to move next."""

from __future__ import annotations

from itertools import pairwise

import pytest

from emulator.abi.xenbus import (
    XENBUS_CLOSED,
    XENBUS_CLOSING,
    XENBUS_CONNECTED,
    XENBUS_INIT_WAIT,
    XENBUS_INITIALISED,
    XENBUS_INITIALISING,
    XENBUS_UNKNOWN,
    state_name,
)
from emulator.dom0.xenbus import BackendHandshake, Connect, Disconnect, FrontendWatch, Remove, SwitchTo, Timeline, XenbusBackend
from emulator.dom0.xenbus.timeline import NODES_KEPT, STEPS_KEPT, waiting
from emulator.dom0.xenstore import Store
from emulator.hypervisor.mailbox import ToBackend
from tests.unit.xenstore_client import Holder, introduced

FRONT, BACK = "/local/domain/3/device/toy/0", "/local/domain/0/backend/toy/3/0"


def test_the_handshake_as_a_script() -> None:
    backend = BackendHandshake()
    assert backend.start() == [SwitchTo(XENBUS_INIT_WAIT)]
    assert backend.frontend_changed(XENBUS_INITIALISING) == []
    assert backend.frontend_changed(XENBUS_INITIALISED) == [Connect()]
    assert backend.connected() == [SwitchTo(XENBUS_CONNECTED)]
    assert backend.frontend_changed(XENBUS_CONNECTED) == []
    assert backend.frontend_changed(XENBUS_CLOSING) == [Disconnect(), SwitchTo(XENBUS_CLOSING)]
    assert backend.frontend_changed(XENBUS_CLOSED) == [SwitchTo(XENBUS_CLOSED)]
    assert backend.frontend_changed(XENBUS_INITIALISING) == [SwitchTo(XENBUS_INIT_WAIT)]
    assert backend.frontend_changed(XENBUS_CONNECTED) == [Connect()]
    assert backend.failed() == [SwitchTo(XENBUS_CLOSING)]
    assert backend.detach() == [SwitchTo(XENBUS_CLOSING)]
    assert backend.frontend_changed(XENBUS_CLOSED) == [SwitchTo(XENBUS_CLOSED), Remove()]
    assert backend.frontend_changed(XENBUS_INITIALISED) == []
    again = BackendHandshake()
    again.load(backend.save())
    assert again.save() == backend.save()


class Toy(XenbusBackend):
    """A device without a ring."""

    def __init__(self, side: Side, store: Store) -> None:
        super().__init__("toy", 0, "toy0", side, store)
        self.held, self.opens, self.gone = False, 0, False

    def connect(self) -> None:
        self.number("ring-ref", 100)
        self.held = True
        self.tell({"sectors": "8"})

    def opened(self) -> None:
        self.opens += 1

    def disconnect(self) -> None:
        self.held = False

    def removed(self) -> None:
        self.gone = True


class Side:
    domid = 3

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, level: str, text: str) -> None:
        self.said.append(text)


class Bus:
    """A toy device plugged into domain 3, which speaks xenstore's protocol."""

    def __init__(self) -> None:
        self.store = Store()
        self.guest = introduced(self.store, 3)
        self.side, self.holder = Side(), Holder()
        self.toy = Toy(self.side, self.store)
        self.toy.publish("toy", {"params": "none"}, {"virtual-device": "0"}, {"feature-toy": "1"})
        self.watch = FrontendWatch(self.store, self.holder, "toy-states")
        self.watch.watch(f"{FRONT}/state", self.toy.frontend_changed)

    def say(self, **nodes: object) -> None:
        for key, value in nodes.items():
            assert self.guest.write(f"{FRONT}/{key.replace('_', '-')}", str(value)) == b"OK\0"

    def told(self) -> list[tuple[str, str, str]]:
        return [(step.who, state_name(step.before), state_name(step.after)) for step in self.toy.handshake.timeline.steps]

    def waits(self) -> str:
        found = self.toy.waiting()
        return found.line() if found else ""


def test_the_timeline_tells_who_moved_and_what_was_written_for_it() -> None:
    bus = Bus()
    assert bus.waits() == "the backend waits for the frontend to grant a ring and an event channel (initialised or connected): no driver has yet"
    bus.say(ring_ref=5, state=XENBUS_INITIALISED)
    assert bus.waits() == "the backend waits for the frontend to set its device up (connected)"
    bus.say(feature_persistent=1, state=XENBUS_CONNECTED)
    assert bus.waits() == "" and bus.toy.held and bus.toy.opens == 1
    assert bus.told() == [
        ("toolstack", "unknown", "initialising"), ("backend", "initialising", "init-wait"), ("frontend", "initialising", "initialised"),
        ("backend", "init-wait", "connected"), ("frontend", "initialised", "connected"),
    ]  # fmt: skip
    steps = bus.toy.handshake.timeline.steps
    assert [dict(step.nodes) for step in steps[1:]] == [{"feature-toy": "1"}, {"ring-ref": "5"}, {"sectors": "8"}, {"feature-persistent": "1"}]
    assert {"frontend": FRONT, "backend": BACK, "params": "none"}.items() <= dict(steps[0].nodes).items()
    assert all(a.time_unix <= b.time_unix for a, b in pairwise(steps))


def test_a_frontend_comes_back_after_closing_and_after_a_mistake() -> None:
    bus = Bus()
    bus.say(ring_ref=5, state=XENBUS_CONNECTED)
    bus.say(state=XENBUS_CLOSING)
    assert bus.waits() == "the backend waits for the frontend to finish closing (closed)" and not bus.toy.held
    bus.say(state=XENBUS_CLOSED)
    assert bus.waits() == "the backend waits for the frontend to start anew (initialising)"
    bus.say(ring_ref=1000, state=XENBUS_INITIALISING)
    bus.say(state=XENBUS_INITIALISED)
    assert "to close (closed): cannot connect: its ring-ref is '1000'" in bus.waits() and bus.side.said and not bus.toy.held
    bus.say(state=XENBUS_CLOSED)
    bus.say(ring_ref=6, state=XENBUS_INITIALISING)
    bus.say(state=XENBUS_CONNECTED)
    assert (bus.toy.held, bus.toy.opens, bus.toy.trouble, bus.waits()) == (True, 2, "", "")


def test_unplugging_is_asked_for_and_told() -> None:
    bus = Bus()
    bus.say(ring_ref=5, state=XENBUS_CONNECTED)
    bus.toy.detach()
    assert "to let the device go (closing, then closed): it is being unplugged" in bus.waits()
    assert bus.store.read(f"{BACK}/online") == "0"
    bus.say(state=XENBUS_CLOSING)
    bus.say(state=XENBUS_CLOSED)
    assert bus.toy.gone and bus.waits() == "" and bus.store.read(FRONT) is None and bus.store.read(BACK) is None


def test_a_frontend_that_flaps_for_ever_fills_nothing() -> None:
    bus = Bus()
    for number in range(200):
        bus.say(**{f"junk-{number}": "\x1b" * 100, "ring_ref": 5, "state": XENBUS_CONNECTED})
        bus.say(state=XENBUS_CLOSED)
        bus.say(state=XENBUS_INITIALISING)
    timeline = bus.toy.handshake.timeline
    assert len(timeline.steps) == STEPS_KEPT and timeline.forgotten > 900
    assert all(len(step.nodes) <= NODES_KEPT for step in timeline.steps)
    shown = "".join(name + value for step in timeline.steps for name, value in step.nodes)
    assert shown.isprintable() and len(shown) < STEPS_KEPT * NODES_KEPT * 400


def test_what_others_change_is_looked_at_in_the_domains_own_turn() -> None:
    bus = Bus()
    bus.holder.held = False  # a tool of Domain-0's in another thread
    bus.store.write(f"{FRONT}/ring-ref", "5")
    bus.store.write(f"{FRONT}/state", str(XENBUS_CONNECTED))
    assert not bus.toy.held
    assert bus.holder.posted == [ToBackend("toy-states", b"")]
    bus.holder.held = True
    bus.holder.receivers["toy-states"](b"")
    assert bus.toy.held


def test_a_step_keeps_a_bounded_number_of_nodes() -> None:
    timeline = Timeline()
    timeline.wrote("frontend", {str(number): "x" * 1000 for number in range(1000)})
    timeline.step("frontend", XENBUS_INITIALISING, XENBUS_CONNECTED)
    (step,) = timeline.steps
    assert len(step.nodes) == NODES_KEPT and all(len(value) == 80 for _, value in step.nodes)


@pytest.mark.parametrize("backend", [XENBUS_INITIALISING, XENBUS_INIT_WAIT, XENBUS_CONNECTED, XENBUS_CLOSING, XENBUS_CLOSED])
def test_in_every_pair_of_states_somebody_is_to_move_or_all_is_done(backend: int) -> None:
    for frontend in range(XENBUS_UNKNOWN, 9):
        found = waiting(frontend, backend, online=True)
        assert (found is None) == (frontend == backend == XENBUS_CONNECTED)
        assert found is None or found.who != found.whom
