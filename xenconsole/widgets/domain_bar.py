"""The lines around the domain screen's tabs: who it is on top, the tabs, a banner when something happened, an explanation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual import events
from textual.message import Message

from emulator.control.views import DomainView
from xenconsole.explain import explain
from xenconsole.rates import DomainRates
from xenconsole.units import amount, braille, printable, size
from xenconsole.widgets.config_panel import wrap
from xenconsole.widgets.domain_summary import state_letter
from xenconsole.widgets.lines import Line, Span, line, width_of
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.vcpu_panel import state_span

GLYPHS = {"r": "▶", "b": "●", "p": "Ⅱ", "s": "■", "c": "✖", "d": "■", "-": "▷"}


SHORT = {"summary": "sum", "memory": "mem", "events": "evts", "snapshots": "snaps", "config": "cfg", "devices": "dev"}
"""Titles of tabs where there is little room."""


class Bar(Pane, can_focus=False):
    """A frameless pane of a fixed few lines."""


class DomainBar(Bar):
    """One line: name, state, load, memory and rates; what has no room is left out from the right."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view: DomainView | None = None
        self.domid = -1
        self.rates = DomainRates()
        self.history: tuple[float, ...] = ()
        self.flags: tuple[str, ...] = ()

    def show(self, domid: int, view: DomainView | None, rates: DomainRates, history: tuple[float, ...], flags: tuple[str, ...]) -> None:
        self.domid, self.view, self.rates, self.history, self.flags = domid, view, rates, history, flags
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        view = self.view
        flags = line(*(Span(f" {flag} ", "reverse bold") for flag in self.flags))
        if view is None:
            return [(*line(("‹ ", "dim"), f"domain {self.domid}", (" ›", "dim"), "  "), *flags)]
        letter = state_letter(view)
        word = state_span(letter)
        less = view.maxmem_kib > view.mem_kib
        memory = f"{size(view.mem_kib)} of {size(view.maxmem_kib, long=True)}" if less else size(view.mem_kib, long=True)
        parts: list[list[Span]] = [
            [Span("‹ ", "dim"), Span(printable(view.name), "bold"), Span(f" {view.domid}", "dim"), Span(" ›", "dim")],
            [Span(GLYPHS.get(letter, "?") + " ", word.style), word],
            [Span(f"{self.rates.cpu:.0f} % CPU ", ""), Span(braille(self.history, 10, 100.0 * max(len(view.vcpus), 1)), "graph")],
            [Span(memory)],
            [Span(f"{len(view.vcpus)} vCPU{'s' if len(view.vcpus) != 1 else ''}")],
            [Span(f"{amount(self.rates.hypercalls)} hypercalls/s")],
            [Span(f"{amount(self.rates.events)} events/s")],
            [Span(f"{view.snapshots} snapshot{'s' if view.snapshots != 1 else ''}")] if view.snapshots else [],
        ]
        room = width - width_of(flags) - 1
        out: list[Span] = []
        for part in parts:
            if width_of(out) + width_of(part) + 3 > room and out:
                break
            out += [Span("   "), *part] if out and part else part
        gap = width - width_of(out) - width_of(flags)
        return [(*out, Span(" " * max(gap, 0)), *flags)]


class TabBar(Bar):
    """The tabs with their digits; the one in front reversed, so that it is seen without colour."""

    class Picked(Message):
        """A tab was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, tabs: Sequence[tuple[str, str]], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.tabs = tuple(tabs)
        self.front = self.tabs[0][0]

    def show(self, front: str) -> None:
        self.front = front
        self.rebuild()

    def _labels(self) -> list[tuple[str, str, str]]:
        """Name, digit and title of each; the titles of those behind are shortened where there is no room, and left out where there is less."""
        shortened = {name: SHORT.get(title, title) for name, title in self.tabs}
        for titles in (dict(self.tabs), shortened, dict.fromkeys(shortened, "")):
            titles[self.front] = dict(self.tabs)[self.front]
            labels = [(name, str(at + 1), titles[name]) for at, (name, _) in enumerate(self.tabs)]
            if sum(cell_len(_label(digit, title)) for _, digit, title in labels) <= self.content_size.width:
                break
        return labels

    def build(self, width: int, height: int) -> Sequence[Line]:
        out: list[Span] = []
        for name, digit, title in self._labels():
            style = "reverse bold" if name == self.front else ""
            text = _label(digit, title)
            out += [Span(text[: len(digit) + 1], style or "dim"), Span(text[len(digit) + 1 :], style)]
        return [tuple(out)]

    def on_click(self, event: events.Click) -> None:
        column = 0
        for name, digit, title in self._labels():
            column += cell_len(_label(digit, title))
            if event.x < column:
                self.post_message(self.Picked(name))
                break
        event.stop()


def _label(digit: str, title: str) -> str:
    return f" {digit} {title} " if title else f" {digit}"


class Banner(Bar):
    """One line that says what became of the domain; hidden while there is nothing to say."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.text = ""
        self.hint = ""

    def show(self, text: str, hint: str = "") -> None:
        self.text, self.hint = text, hint
        self.display = bool(text)
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        return [line(Span(f" {self.text} ", "bold reverse"), Span(f"  {self.hint}", "dim"))]


class ExplainBar(Bar):
    """What the chosen field means and what Xen calls it."""

    keys = "arrows: other fields · i or Esc: enough"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("explained", id=id)
        self.field = ""

    def show(self, field: str) -> None:
        self.field = field
        self.display = bool(field)
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        found = explain(self.field)
        if found is None:
            return [line((f"nothing is written about {self.field} yet" if self.field else "", "dim"))]
        return [
            line((found.title, "bold")),
            *wrap_words(found.text, width),
            *wrap(Span("Xen: ", "dim"), found.source, width),
        ]


def wrap_words(text: str, width: int) -> list[Line]:
    """Text broken between words."""
    rows: list[str] = [""]
    for word in text.split(" "):
        if rows[-1] and cell_len(rows[-1]) + 1 + cell_len(word) > width:
            rows.append("")
        rows[-1] += f" {word}" if rows[-1] else word
    return [line(row) for row in rows]
