"""What a device moved and how long it took: counted by the back ends, made histories of by the console."""

from __future__ import annotations

import time

import pytest

from emulator.control.portraits import _last_bytes
from emulator.control.views import FlowView, RingView
from tests.unit.block_frontend import Frontend
from tests.unit.test_net_device import Guest, pair, to
from xenconsole.explain import explain
from xenconsole.flow_history import FlowHistory, Flows
from xenconsole.screens.domain_tabs import pair_of
from xenconsole.units import micros
from xenconsole.widgets.flow_panel import SERIES, FlowPane
from xenconsole.widgets.ring_wheel import index_lines

__all__ = ["pair"]


def test_a_disks_wait_is_from_the_taking_of_a_request_to_its_answer() -> None:
    front = Frontend()
    front.request(0, 1, 0, (110, 0, 7))
    (job,) = front.ring.take()
    time.sleep(0.01)
    assert front.ring.counters.answered == 0 and front.ring.oldest_ns()
    front.do(job)
    counters = front.ring.counters
    assert counters.answered == 1 and 10_000_000 <= counters.wait_ns < 5_000_000_000
    front.ring.finish(job.tag, "", b"")
    assert counters.answered == 1, "an answer that nobody waits for is none"


def test_a_frames_wait_is_from_the_bridge_to_the_guests_ring(pair: tuple[Guest, Guest]) -> None:
    a, b = pair
    a.side.send(to(a, b, b"\x08\x00" + bytes(60)))
    a.kick()
    time.sleep(0.01)
    assert b.vif.counters.waited == 0
    b.run()
    assert b.vif.counters.waited == 1 and b.vif.counters.wait_ns >= 10_000_000
    b.vif.received(())
    assert b.vif.counters.waited == 1


def test_histories_are_rates_and_a_counter_that_fell_gives_none() -> None:
    flows = Flows()
    flows.feed((FlowView("xvda", "block", 10, 1000, 0, 10, 1_000_000),), 0.0)
    flows.feed((FlowView("xvda", "block", 30, 5000, 0, 30, 5_000_000),), 0.5)
    flows.feed((FlowView("xvda", "block", 5, 0, 0, 5, 0),), 0.5)
    history = flows.history
    assert history.of("xvda", "done") == (40.0, 0.0) and history.of("xvda", "inward") == (8000.0, 0.0)
    assert history.of("xvda", "latency") == (200.0, 0.0)
    flows.feed((), 0.5)
    assert history.of("xvda", "done") == (), "a device that is gone is forgotten"


def test_a_history_is_bounded() -> None:
    history = FlowHistory(3)
    for n in range(10):
        history.feed("a", {"x": float(n)})
    assert history.of("a", "x") == (7.0, 8.0, 9.0) and history.of("a", "y") == () and history.of("b", "x") == ()


def test_both_rings_of_a_queue_stand_together_though_their_ports_differ() -> None:
    rings = tuple(RingView(f"vif1.0-q{q} {way}", f"net-{way}", port=10 + 2 * q + n, device="vif1.0", queue=q)
                  for q in (0, 1) for n, way in enumerate(("tx", "rx")))  # fmt: skip
    assert [pair_of(ring, rings).name for ring in rings] == [rings[1].name, rings[0].name, rings[3].name, rings[2].name]  # type: ignore[union-attr]
    assert pair_of(RingView("vif2.0 tx", "net-tx", device="vif2.0"), rings) is None


@pytest.mark.parametrize(("prod", "wanted"), [(0, b""), (3, b"abc"), (16, b"ijklmnop"), (19, b"lmnopabc")])
def test_the_last_bytes_of_a_ring_are_read_where_they_still_stand(prod: int, wanted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.control.portraits._RECENT", 8)
    assert _last_bytes(memoryview(b"abcdefghijklmnop"), prod) == wanted


def test_the_age_of_the_oldest_request_is_shown_and_explained() -> None:
    shown = ["".join(span.text for span in spans) for spans in index_lines(RingView("xvda", "block", 32, 5, 5, 3, 3, age_ns=3_400_000), 0.0, 60)]
    assert any("oldest in flight  3400 µs" in row for row in shown)
    assert all(explain(series.field) for kinds in SERIES.values() for series in kinds)
    assert not FlowPane().build(30, 10)[0][0].text.startswith("flow")


def test_latencies_are_written_short() -> None:
    assert [micros(value) for value in (0, 87.4, 12_000, 3_400_000)] == ["0 µs", "87 µs", "12 ms", "3.4 s"]
