"""Panes as text: lines are cut to their width, nothing a guest wrote steers the terminal, every field is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.control.memoryviews import FRAME_TYPES
from emulator.control.networkviews import NetworksView, NetworkView, VifView
from emulator.control.views import DomainView, PortView, VcpuSummary
from xenconsole.explain import explain, table
from xenconsole.flow_history import FlowHistory
from xenconsole.widgets.graph import Series, graph, nice
from xenconsole.widgets.key_line import that_fit
from xenconsole.widgets.lines import EMPTY, Span, beside, cut, harmless, line, pad, plain, resolve, width_of
from xenconsole.widgets.network_list import NetworkList
from xenconsole.widgets.pane import Rows
from xenconsole.widgets.ports_panel import PortsPanel
from xenconsole.widgets.run_queue import VcpuTimes
from xenconsole.widgets.text import hex_lines, tail_lines, visible_bytes, word_lines


def test_a_line_too_long_ends_with_an_ellipsis_within_its_width() -> None:
    spans = line(("abcdef", "bold"), "ghij")
    assert plain([cut(spans, 10)]) == "abcdefghij"
    assert plain([cut(spans, 8)]) == "abcdefg…"
    assert width_of(cut(spans, 3)) == 3
    assert cut(spans, 0) == EMPTY


@given(st.lists(st.text(max_size=8), max_size=6), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_cut_and_pad_keep_their_width_for_any_text(texts: list[str], width: int) -> None:
    spans = harmless(line(*texts))
    assert width_of(cut(spans, width)) <= width
    assert width_of(pad(spans, width)) == width


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_text_of_a_guest_reaches_the_terminal_with_a_control_character(text: str) -> None:
    assert all(span.text.isprintable() for span in harmless(line(text)))


def test_two_columns_stand_beside_each_other() -> None:
    assert plain(beside([line("a")], [line("x"), line("y")], 3, 1)) == "a   x\n    y"


def test_style_words_become_attributes_and_theme_colours() -> None:
    style = resolve("bold trouble on-cursor-row", {"trouble": "#ff0000", "cursor-row": "#000080"})
    assert style.bold
    assert style.color is not None and style.color.triplet == (255, 0, 0)
    assert style.bgcolor is not None and style.bgcolor.triplet == (0, 0, 128)
    assert resolve("no-such-variable", {}).color is None
    assert resolve("trouble", {"trouble": "no colour"}).color is None


def test_console_output_becomes_plain_lines() -> None:
    data = b"\x1b[31mred\x1b[0m\r\nloading 10%\rloading 20%\r\n\x1b]0;title\x07ab\bc\tx\r\n\r\n"
    assert tail_lines(data, 10) == ["red", "loading 20%", "ac      x"]
    assert tail_lines(data, 1) == ["ac      x"]
    assert tail_lines(b"", 5) == []


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_shown_without_control_characters(data: bytes) -> None:
    assert all(text.isprintable() for text in tail_lines(data, 50))
    for spans in visible_bytes(data, 20, 50):
        assert width_of(spans) <= 20
        assert all(span.text.isprintable() for span in spans)


def test_control_characters_of_a_ring_are_named() -> None:
    assert plain(visible_bytes(b"ls\r\x1b[A\n", 40, 5)) == "ls\\r␛[A\\n"


def test_a_hex_dump_takes_eight_bytes_a_row_where_sixteen_do_not_fit() -> None:
    wide, narrow = hex_lines(bytes(range(32, 48)), 0x100, 90), hex_lines(bytes(range(32, 48)), 0x100, 40)
    assert (len(wide), len(narrow)) == (1, 2)
    assert plain(narrow[:1]).startswith("     100  20 21 22")
    assert "()*+" in plain(wide)


def test_the_stack_marks_kernel_addresses() -> None:
    rows = word_lines((0xFFFFFFFF81000000).to_bytes(8, "little") + bytes(8), 0x1000)
    assert [span.style for span in rows[0]][2] == "bold"
    assert [span.style for span in rows[1]][2] == "dim"


def test_every_row_of_the_table_has_a_title_a_text_and_a_source() -> None:
    for key, row in table().items():
        assert re.fullmatch(r"[a-z]+:[\w#]+", key), key
        assert row.title and row.text and row.source, key


@pytest.mark.parametrize("name", [*FRAME_TYPES])
def test_every_frame_type_is_explained(name: str) -> None:
    assert explain(f"frame:{name}") is not None


@pytest.mark.parametrize("name", ["rax", "r15", "rip", "rflags", "cs", "gs", "fs_base", "gs_base_user", "cr0", "cr2", "cr3", "cr4"])
def test_every_register_is_explained(name: str) -> None:
    assert explain(f"reg:{name}") is not None


def test_every_field_that_a_pane_names_is_in_the_table() -> None:
    folder = Path(__file__).parents[2] / "xenconsole" / "widgets"
    names = {m for path in folder.glob("*.py") for m in re.findall(r'"((?:vcpu|time|cpu|mem|ring|port|trace|dom):[a-z_0-9]+)"', path.read_text())}
    assert len(names) > 20
    assert not [name for name in names if explain(name) is None]


def test_a_span_of_no_text_is_dropped() -> None:
    assert line("", Span("a"), ("", "dim")) == (Span("a"),)


def test_a_scale_ends_at_a_round_number() -> None:
    assert [nice(top) for top in (0, 0.03, 0.9, 1, 1.2, 6, 51, 100)] == [1, 0.05, 1, 1, 2, 10, 100, 100]
    assert [nice(top * 1024, 1024) / 1024 for top in (3, 1000, 1500)] == [5, 1000, 2048]


def test_a_graph_says_what_is_now_and_how_high_it_can_be() -> None:
    text = plain(graph(Series("sends", "graph", lambda value: f"{value:.0f} B"), (0.0, 4.0, 8.0), 40, 3))
    first, _middle, last = text.splitlines()
    assert first.startswith("sends 8 B") and last.startswith("≤ 10 B") and last.rstrip()[-1] != "│"
    assert len(graph(Series("x", "graph", str), (), 30, 2)) == 2


def test_a_graph_of_nothing_has_no_scale_and_none_ends_below_one() -> None:
    series = Series("sends", "graph", lambda value: f"{value:.0f} B")
    assert "≤" not in plain(graph(series, (0.0, 0.0), 40, 3))
    assert "≤ 1 B" in plain(graph(series, (0.2, 0.0), 40, 3))


@pytest.mark.parametrize("width", [40, 60, 70, 80, 120])
def test_the_key_line_fits_and_always_has_help_and_quit(width: int) -> None:
    words = [("p", "pause"), ("S", "snapshot"), ("i", "inspect"), ("c", "console"), ("/", "filter"), (":", "command"), ("?", "help"), ("q", "quit")]
    shown = [word for word, on in zip(words, that_fit(words, width), strict=True) if on]
    assert sum(len(key) + len(text) + 3 for key, text in shown) <= width
    assert shown[-2:] == words[-2:] and (":", "command") in shown
    assert (shown == words) is (width >= 80)


@pytest.mark.parametrize("width", [56, 68, 69, 75, 76, 96, 160])
def test_no_table_is_wider_than_its_pane(width: int) -> None:
    """56 is the inside of a pane in the narrowest terminal."""
    ports, networks, vcpus = PortsPanel(), NetworkList(), VcpuTimes()
    ports.ports = tuple(PortView(port, "interdomain", "domain 0 (console)", 0, port % 2 == 0, port % 3 == 0, 12_345_678) for port in range(9))
    ports.rates = {"1": 1234.0}
    vif = VifView(4, 0, "vif4.0", "linux-with-a-long-name", "net0", "00:16:3e:00:00:04", tx_bytes_rate=1e8, rx_bytes_rate=1e7, alarm="stalled")
    networks.show(NetworksView((NetworkView("net0"),), (vif,)), FlowHistory())
    vcpus.show([DomainView(1234, "linux-with-a-long-name", vcpus=(VcpuSummary(0, "-", 1, 10**14, 10**13, steal_ns=10**13),))], {1234: (100.0,)}, {})
    for lines in (ports.build(width, 20), networks.build(width, 20), vcpus.build(width, 20)):
        assert all(width_of(spans) <= width for spans in lines[:9]), plain(lines[:9])


def test_rows_of_a_long_list_are_made_only_when_they_are_looked_at() -> None:
    made: list[int] = []

    def make(row: int) -> tuple[Span, ...]:
        made.append(row)
        return (Span(str(row)),)

    rows = Rows([line("head")], 1_000_000, make)
    assert len(rows) == 1_000_001 and made == []
    assert plain(rows[:1]) == "head" and plain(rows[500_000:500_002]) == "499999\n500000" and made == [499_999, 500_000]
    assert rows[-2:] == [(Span("999998"),), (Span("999999"),)]
    with pytest.raises(IndexError):
        rows[1_000_001]
