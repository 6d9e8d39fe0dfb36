"""What the domain screen's panels say of a view, as text."""

from __future__ import annotations

import msgspec
import pytest

from emulator.control.memoryviews import FRAME_TYPES, MemoryView
from emulator.control.views import PortView, RingView, TraceLine, TraceView, VcpuView
from tests.ui.fake_details import CODE, LOOP, memory_view, port_views, ring_views, trace_view, vcpu_view
from tests.ui.fake_engine import FakeEngine
from xenconsole.rates import DomainRates
from xenconsole.screens.domain_tabs import pair_of
from xenconsole.widgets.canvas import Canvas
from xenconsole.widgets.config_panel import tree_lines
from xenconsole.widgets.domain_summary import life_lines, state_letter
from xenconsole.widgets.lines import plain, width_of
from xenconsole.widgets.memory_map import GLYPHS, legend_lines, map_lines, merge, scatter_lines
from xenconsole.widgets.ports_panel import CountRates, PortsPanel
from xenconsole.widgets.ring_wheel import BOTH, CONSUMER, PRODUCER, arcs, content_lines, distance, index_lines, wheel
from xenconsole.widgets.trace_panel import TraceFilter, duration, histogram_lines, percentile, trace_lines
from xenconsole.widgets.vcpu_panel import Changes, code_lines, register_lines, share_bars

NOW = 61_000_000_000
VIEW = FakeEngine().domains[4].view(NOW, 2)


# vCPU


def test_registers_that_changed_in_the_last_move_are_marked() -> None:
    changes, before = Changes(), vcpu_view(0, "b", NOW)
    after = msgspec.structs.replace(before, registers=before.registers | {"rax": 0xABC})
    changes.feed((before,))
    assert changes.of(0) == frozenset()
    changes.feed((after,))
    assert changes.of(0) == {"rax"}
    assert "•rax 0000000000000abc" in plain(register_lines(after.registers, changes.of(0), 60))


def test_a_vcpu_that_stands_still_keeps_the_marks_of_its_last_move() -> None:
    changes, before = Changes(), vcpu_view(0, "b", NOW)
    after = msgspec.structs.replace(before, registers=before.registers | {"rax": 1 << 20})
    for view in (before, after, after, after):
        changes.feed((view,))
    assert changes.of(0) == {"rax"}


def test_a_register_that_is_not_known_is_dashes() -> None:
    assert "rax ----------------" in plain(register_lines({}, frozenset(), 60))


def test_the_instruction_at_rip_has_an_arrow() -> None:
    text = plain(code_lines(vcpu_view(0, "b", 0), 90))
    arrows = [row for row in text.splitlines() if "▶" in row]
    assert len(arrows) == 1
    assert f"{LOOP:016x}" in arrows[0] and CODE[0][1].split()[0] in arrows[0]
    assert "nothing readable" in plain(code_lines(VcpuView(vcpu=0), 90))


def test_time_is_shared_between_guest_hypervisor_and_idle() -> None:
    text = plain(share_bars(VcpuView(vcpu=0, guest_ns=500, hypervisor_ns=250, idle_ns=250), 60))
    assert [row.split(" %")[0].split()[-1] for row in text.splitlines()] == ["50.0", "25.0", "25.0"]
    assert "0.0 %" in plain(share_bars(VcpuView(vcpu=0), 60))


# memory


def test_every_use_of_a_frame_has_a_glyph_of_its_own() -> None:
    assert set(GLYPHS) == set(FRAME_TYPES)
    assert len({glyph for glyph, _ in GLYPHS.values()}) == len(GLYPHS)


def test_a_lone_page_table_stays_visible_when_blocks_are_merged() -> None:
    ram, root = FRAME_TYPES.index("ram"), FRAME_TYPES.index("l4")
    assert merge(bytes([ram, ram, ram, root, ram, ram]), 4, {"ram": 5, "l4": 1}) == bytes([root, ram])


@pytest.mark.parametrize("size", [(76, 18), (60, 33), (140, 60), (44, 6)])
def test_the_map_stays_in_its_place_and_shows_every_block(size: tuple[int, int]) -> None:
    view = memory_view(VIEW)
    rows = plain(map_lines(view, *size)).splitlines()
    assert len(rows) <= size[1]
    assert all(len(row) <= size[0] for row in rows[:-1])
    assert "one cell = " in rows[-1]


def test_a_frame_type_of_a_newer_engine_is_a_question_mark() -> None:
    assert "?" in plain(map_lines(MemoryView(types=bytes([200]), nr_pfns=1), 40, 5))


def test_the_legend_counts_frames_and_says_what_is_dirty() -> None:
    text = plain(legend_lines(memory_view(VIEW), 50))
    assert "maximum    65,536" in text and "321 (1.3M) since last snapshot" in text
    assert "once there is a snapshot" in plain(legend_lines(MemoryView(dirty=-1), 50))


def test_the_scatter_puts_low_frames_below_and_high_ones_above() -> None:
    view = MemoryView(p2m_sample=((0, 0), (99, 99)), nr_pfns=100, nr_mfns=100)
    rows = plain(scatter_lines(view, 24, 8)).splitlines()
    assert rows[0].rstrip().endswith("⠈") and "⡀" in rows[5]
    assert "z shows it alone" in plain(scatter_lines(view, 24, 3))
    assert plain(scatter_lines(MemoryView(), 24, 8)).count("mfn") == 1, "nothing to show is an empty field, not an error"


def test_the_chosen_frame_stands_out_without_colour() -> None:
    view = MemoryView(types=bytes([1] * 64), nr_pfns=64)
    cells = [span for spans in map_lines(view, 40, 10, 5) for span in spans if "reverse" in span.style]
    assert len(cells) == 1 and not cells[0].text.strip(), "a full cell among the hatched ones"


# rings


def test_a_full_empty_or_broken_ring_never_shows_more_than_its_size() -> None:
    assert distance(5, 3, 8) == 2
    assert distance(2, (1 << 32) - 2, 8) == 4
    assert distance(1 << 31, 0, 8) == 8
    assert distance(7, 7, 0) == 0


def test_a_byte_ring_has_one_arc_and_a_request_ring_three() -> None:
    byte = RingView(name="c", kind="console-out", size=2048, req_prod=30, req_cons=10)
    block = RingView(name="b", kind="block", size=32, req_prod=20, req_cons=16, rsp_prod=8, rsp_cons=5)
    assert [(arc.kind, arc.start, arc.count) for arc in arcs(byte)] == [("waiting", 10, 20)]
    assert [(arc.kind, arc.count) for arc in arcs(block)] == [("answered", 3), ("backend", 8), ("waiting", 4)]


def test_the_wheel_marks_producer_and_consumer_and_their_meeting() -> None:
    apart = plain(wheel(RingView(name="c", kind="console-out", size=2048, req_prod=1024, req_cons=0), 16))
    assert apart.count(PRODUCER) == 1 and apart.count(CONSUMER) == 1 and "1024 B" in apart
    assert apart.index(CONSUMER) < apart.index(PRODUCER), "slot 0 is at the top, the middle of the ring at the bottom"
    together = plain(wheel(RingView(name="c", kind="console-out", size=2048, req_prod=7, req_cons=7), 16))
    assert BOTH in together and "empty" in together


@pytest.mark.parametrize("rows", [5, 9, 16, 30])
def test_the_wheel_keeps_its_size(rows: int) -> None:
    for ring in ring_views(VIEW, b"", NOW):
        lines = wheel(ring, rows, moved=100)
        assert len(lines) == rows and all(width_of(row) == rows * 2 for row in lines)


def test_a_stalled_ring_says_so_in_words() -> None:
    ring = next(ring for ring in ring_views(VIEW, b"", NOW) if ring.stalled)
    assert "STALLED" in plain(wheel(ring, 16)) and "STALLED" in plain(index_lines(ring, 0.0, 50))


def test_slots_are_marked_by_who_holds_them() -> None:
    ring = RingView(name="b", kind="block", size=8, req_prod=4, req_cons=3, rsp_prod=2, rsp_cons=1, slots=tuple("abcdefgh"))
    marks = [row[0] for row in plain(content_lines(ring, 30, 8)).splitlines()]
    assert marks == [" ", "═", "▒", "█", " ", " ", " ", " "]
    assert [row[0] for row in plain(content_lines(ring, 30, 4)).splitlines()] == ["═", "▒", "█", " "], "first what is on its way"


def test_the_two_directions_of_a_console_are_a_pair_and_two_disks_are_not() -> None:
    rings = ring_views(VIEW, b"", NOW)
    other = pair_of(rings[0], rings)
    assert other is not None and other.kind == "console-in"
    disks = tuple(RingView(name=name, kind="block", port=port) for name, port in (("xvda", 5), ("xvdb", 6)))
    assert pair_of(disks[0], disks) is None


# events


def test_ports_say_pending_and_masked_in_words_and_leave_out_free_ones() -> None:
    panel = PortsPanel()
    panel.ports = tuple(p for p in (*port_views(VIEW, 2, NOW), PortView(port=99, kind="free")) if p.kind != "free")
    text = plain(panel.build(100, 30))
    row = next(row for row in text.splitlines() if "vif0" in row)
    assert "pending" in row and "masked" in row and "99" not in text


def test_rates_of_counters_survive_a_counter_that_falls() -> None:
    rates = CountRates(smooth_s=0.0)
    rates.feed({"3": 100}, 1.0)
    assert rates.feed({"3": 150}, 0.5) == {"3": 100.0}
    assert rates.feed({"3": 10}, 0.5) == {"3": 0.0}
    assert rates.feed({}, 0.5) == {}


# trace


def entry(**fields: object) -> TraceLine:
    base = TraceLine(seq=1, vtime_ns=1_500_000_000, vcpu=0, kind="hypercall", name="mmu_update", detail="1 update", result="0", cost_ns=900)
    return msgspec.structs.replace(base, **fields)


def test_a_refusal_is_followed_by_its_reason() -> None:
    rows = plain(trace_lines(entry(result="-EINVAL", reason="maps a page table writable"), 90)).splitlines()
    assert "mmu_update(1 update) = -EINVAL" in rows[0] and rows[0].endswith("900 ns")
    assert rows[1].strip() == "└ maps a page table writable"


def test_a_long_argument_leaves_room_for_the_answer() -> None:
    row = plain(trace_lines(entry(detail="x" * 200), 70))
    assert len(row) == 70 and " = 0" in row and row.endswith("900 ns")


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", True),
        ("mmu", True),
        ("!mmu", False),
        ("EINVAL", False),
        ("sched|mmu_", True),
        ("!", True),
        ("(", True),
        ("[x", False),
    ],
)
def test_the_filter_is_a_regular_expression_with_an_inverse(text: str, passes: bool) -> None:
    assert TraceFilter(text).passes(entry()) is passes


def test_latencies_are_drawn_from_the_first_bucket_to_the_last() -> None:
    rows = plain(histogram_lines((0, 0, 4, 0, 8), 40)).splitlines()
    assert [row.split()[0] for row in rows] == ["4", "8", "16"]
    assert rows[0].endswith("4") and rows[2].endswith("8")
    assert "no call" in plain(histogram_lines((), 40))


def test_percentiles_and_durations_are_short() -> None:
    assert percentile((0, 99, 1), 0.5) == 4.0 and percentile((), 0.99) == 0.0
    assert [duration(ns) for ns in (870, 1300, 42_000, 42_000_000, 3e9)] == ["870 ns", "1.3 µs", "42 µs", "42 ms", "3.0 s"]


def test_a_trace_view_gives_only_what_is_newer() -> None:
    view = trace_view(0, NOW)
    assert isinstance(view, TraceView) and all(line.seq > view.seq - 5 for line in trace_view(view.seq - 5, NOW).lines)


# the rest


def test_the_life_of_a_domain_is_told_in_words() -> None:
    placed = msgspec.structs.replace(VIEW, pool="fast", affinity="0,1", soft_affinity="1")
    assert "pool fast, CPUs 0,1 only, rather on 1" in plain(life_lines(placed, DomainRates(), (), VIEW.started_unix, 58))
    text = plain(life_lines(VIEW, DomainRates(cpu=12.3), (10.0, 20.0), VIEW.started_unix + 90, 58))
    assert "blocked" in text and "12.3 %" in text and "1 min ago" in text and "256 MiB of 256 MiB" in text


@pytest.mark.parametrize(
    ("letters", "letter"), [("r-----", "r"), ("-b----", "b"), ("--p---", "p"), ("---s--", "s"), ("----c-", "c"), ("------", "-")]
)
def test_one_letter_says_most_of_the_state(letters: str, letter: str) -> None:
    assert state_letter(msgspec.structs.replace(VIEW, state=letters)) == letter


def test_xenstore_is_a_tree_below_what_its_paths_share() -> None:
    text = plain(tree_lines([("/local/domain/3/name", "x"), ("/local/domain/3/device/vbd/1/state", "4")], 60))
    assert text.splitlines() == ["/local/domain/3", "  device", "    vbd", "      1", "        state  4", "  name  x"]
    assert "nothing" in plain(tree_lines([], 60))


def test_a_directory_without_a_value_is_not_an_entry_of_its_own() -> None:
    text = plain(tree_lines([("/local/domain/3", ""), ("/local/domain/3/data", ""), ("/local/domain/3/data/x", "1")], 60))
    assert text.splitlines() == ["/local/domain/3/data", "  x  1"]


def test_the_canvas_ignores_what_lies_outside() -> None:
    canvas = Canvas(2, 1)
    canvas.dot(-1, 0)
    canvas.dot(4, 0)
    canvas.dot(0, 0)
    canvas.put(1, 0, "xyz")
    assert plain(canvas.lines()) == "⠁x"
