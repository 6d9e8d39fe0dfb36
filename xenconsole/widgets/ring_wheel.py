"""The rings tab: a ring drawn as a wheel that its producers and consumers move round, and the list of all rings.

Indices are free-running; modulo the size they are a place on the rim, slot 0 at the top, clockwise. Requests go round on the
outer side, responses on the inner one. What is filled is what is on its way:

    rsp_cons ══ rsp_prod ▒▒ req_cons ██ req_prod        ██ put in, not yet taken by the backend
        ║                               ·               ▒▒ taken, in the backend's hands
        ╚····························· ·                ══ answered, not yet seen by the frontend      · free

A byte ring has the first pair alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from emulator.control.views import RingView
from xenconsole.units import amount, byte_rate, fit, gauge, micros
from xenconsole.widgets.canvas import Canvas
from xenconsole.widgets.lines import EMPTY, Line, Span, beside, line, pad
from xenconsole.widgets.pane import ListPane, Pane
from xenconsole.widgets.text import hex_lines, visible_bytes

PRODUCER, CONSUMER, BOTH = "●", "○", "◉"
WRAP = 1 << 32


def is_bytes(ring: RingView) -> bool:
    """Whether the ring moves bytes (console, xenstore) and not requests with answers."""
    return ring.kind.startswith(("console", "xenstore"))


def distance(prod: int, cons: int, limit: int) -> int:
    """How far a producer is ahead, within the ring; indices wrap at 2**32 and a guest may write nonsense."""
    return min((prod - cons) % WRAP, max(limit, 0))


@dataclass(frozen=True)
class Arc:
    """A filled part of the rim: from index `start`, `count` slots long."""

    start: int
    count: int
    kind: str  # waiting, backend, answered


def arcs(ring: RingView) -> tuple[Arc, ...]:
    """What is on its way, in the order in which it is drawn."""
    waiting = Arc(ring.req_cons, distance(ring.req_prod, ring.req_cons, ring.size), "waiting")
    if is_bytes(ring):
        return (waiting,)
    backend = Arc(ring.rsp_prod, distance(ring.req_cons, ring.rsp_prod, ring.size), "backend")
    answered = Arc(ring.rsp_cons, distance(ring.rsp_prod, ring.rsp_cons, ring.size), "answered")
    return (answered, backend, waiting)


ARC_STYLES = {"waiting": "graph-high", "backend": "graph", "answered": "ok"}
ARC_WORDS = {"waiting": "waiting for the backend", "backend": "in the backend's hands", "answered": "answered, not yet seen"}


def _fills(kind: str, x: int, y: int, place: float) -> bool:
    """Whether a dot at `place` (0 the inner rim, 1 the outer one) is set: each kind has its own texture."""
    if kind == "waiting":
        return True
    if kind == "backend":
        return (x + y) % 2 == 0
    return place < 0.25 or place > 0.75


@lru_cache(maxsize=8)
def rim(rows: int) -> tuple[float, float, tuple[tuple[int, int, float, float], ...]]:
    """Outer and inner radius of a wheel in dots, and its rim's dots: x, y, the turn (0 at the top, clockwise) and how far out."""
    wide, high = rows * 4, rows * 4
    cx, cy = (wide - 1) / 2, (high - 1) / 2
    outer = min(cx, cy) - 4.5
    inner = outer * 0.74
    dots = []
    for y in range(high):
        for x in range(wide):
            radius = math.hypot(x - cx, y - cy)
            if inner - 0.5 <= radius <= outer + 0.5:
                turn = (math.atan2(x - cx, cy - y) / math.tau) % 1.0
                dots.append((x, y, turn, (radius - inner) / (outer - inner)))
    return outer, inner, tuple(dots)


def wheel(ring: RingView, rows: int, moved: int = 0) -> list[Line]:
    """The wheel in `rows` lines of `2 * rows` cells. `moved` slots behind the producer are its trail."""
    rows = max(rows, 5)
    canvas = Canvas(rows * 2, rows)
    outer, inner, dots = rim(rows)
    size = max(ring.size, 1)
    drawn = [(arc, (arc.start % size) / size, arc.count / size) for arc in arcs(ring) if arc.count]
    trail = min(moved, size) / size
    head = (ring.req_prod % size) / size
    for x, y, turn, place in dots:
        for arc, start, share in drawn:
            if (turn - start) % 1.0 < share and _fills(arc.kind, x, y, place):
                canvas.dot(x, y, ARC_STYLES[arc.kind], 2)
        if place >= 1.0 - 0.5 / (outer - inner):
            canvas.dot(x, y, "dim", 0)
        elif place <= 0.5 / (outer - inner):
            canvas.dot(x, y, "rule", 0)
        elif trail and (head - turn) % 1.0 <= trail and abs(place - 0.5) * (outer - inner) <= 0.5 and (x + y) % 2 == 0:
            canvas.dot(x, y, "graph-low", 1)
    _marks(canvas, ring.req_prod, ring.req_cons, size, outer + 3.0, "bold", "ring:req_prod", "ring:req_cons")
    if not is_bytes(ring):
        _marks(canvas, ring.rsp_prod, ring.rsp_cons, size, inner - 3.5, "bold ok", "ring:rsp_prod", "ring:rsp_cons")
    flight = sum(arc.count for arc in arcs(ring))
    unit = "B" if is_bytes(ring) else "slot" if flight == 1 else "slots"
    words = [(f"{flight} {unit}", "bold"), ("in flight", "")] if flight else [("empty", "dim")]
    words.append((f"of {size:,}", "dim"))
    if ring.stalled:
        words.append((" STALLED ", "trouble reverse bold"))
    for at, (text, style) in enumerate(words):
        canvas.put(
            rows - len(text) // 2,
            rows // 2 - len(words) // 2 + at,
            text,
            style,
            "ring:stalled" if "STALL" in text else "ring:flight",
        )
    return canvas.lines()


def _marks(canvas: Canvas, prod: int, cons: int, size: int, radius: float, style: str, prod_field: str, cons_field: str) -> None:
    wide, high = canvas.dots

    def cell(index: int) -> tuple[int, int]:
        angle = (index % size) / size * math.tau
        x = (wide - 1) / 2 + radius * math.sin(angle)
        y = (high - 1) / 2 - radius * math.cos(angle)
        return min(max(round(x) // 2, 0), canvas.width - 1), min(max(round(y) // 4, 0), canvas.height - 1)

    producer, consumer = cell(prod), cell(cons)
    canvas.put(*consumer, CONSUMER, style, cons_field)
    canvas.put(*producer, BOTH if producer == consumer else PRODUCER, style, prod_field)


def index_lines(ring: RingView, rate: float, width: int) -> list[Line]:
    """The indices in numbers, what is on its way, and how the ring stands."""
    size = max(ring.size, 1)
    rows = [("req_prod", PRODUCER, ring.req_prod), ("req_cons", CONSUMER, ring.req_cons)]
    if is_bytes(ring):
        rows = [("producer", PRODUCER, ring.req_prod), ("consumer", CONSUMER, ring.req_cons)]
    else:
        rows += [("rsp_prod", PRODUCER, ring.rsp_prod), ("rsp_cons", CONSUMER, ring.rsp_cons)]
    out: list[Line] = []
    for at, (name, glyph, index) in enumerate(rows):
        field = ("ring:req_prod", "ring:req_cons", "ring:rsp_prod", "ring:rsp_cons")[at]
        side = " inner" if at > 1 else " outer" if len(rows) > 2 else ""
        side = side if width >= 44 else ""
        out.append(
            line(
                Span(f"{glyph} ", "bold ok" if at > 1 else "bold"),
                Span(f"{name} ", "dim", field),
                Span(f"{index % WRAP:>12,}"),
                Span(f"  → {index % size:,}{side}", "dim"),
            )
        )
    for arc in reversed(arcs(ring)):
        full, empty = gauge(arc.count / size, max(min(width - 31, 24), 0) if not is_bytes(ring) else max(min(width - 20, 32), 4))
        word = "in flight" if is_bytes(ring) else ARC_WORDS[arc.kind]
        out.append(
            line(
                Span(f"{arc.count:>5} ", "bold" if arc.count else "dim"),
                Span(fit(word, 24 if not is_bytes(ring) else 10), "dim", "ring:flight"),
                Span(full, ARC_STYLES[arc.kind]),
                Span(empty, "rule"),
            )
        )
    flow = f"{byte_rate(rate, long=True)}" if is_bytes(ring) else f"{rate:.0f} requests/s"
    state = (
        Span(" STALLED: work waits and no index moves ", "trouble reverse bold", "ring:stalled")
        if ring.stalled
        else Span("moving" if rate >= 0.5 else "quiet", "state-running" if rate >= 0.5 else "dim")
    )
    out.append(line(state, Span("" if ring.stalled else f"  {flow}" if rate >= 0.5 else "")))
    if not is_bytes(ring):
        waits = Span(micros(ring.age_ns / 1000), "trouble bold" if ring.stalled else "bold") if ring.age_ns else Span("nothing waits", "dim")
        out.append(line(Span("oldest in flight  ", "dim", "ring:age"), waits))
    out.append(line(Span("frame ", "dim", "ring:gfn"), f"0x{ring.gfn:x}", Span("   port ", "dim", "ring:port"), f"{ring.port}"))
    return out


def content_lines(ring: RingView, width: int, rows: int) -> list[Line]:
    """What is in the ring: the last bytes as text and in hex, or the decoded slots."""
    if rows <= 0:
        return []
    if ring.slots:
        count = len(ring.slots)
        first = arcs(ring)[0].start % max(ring.size, 1) if count > rows else 0  # what is on its way is seen first
        order = [at % count for at in range(first, first + count)]
        return [_slot(ring, at, ring.slots[at]) for at in order[:rows]]
    if not ring.recent:
        return [line(("nothing has gone through it yet", "dim"))]
    text = visible_bytes(ring.recent, width, max(rows // 2, min(rows, 4)))
    left = rows - len(text) - 2
    out = [line(("last bytes", "dim")), *text]
    if left >= 2:
        per_row = 16 if width >= 76 else 8
        tail = ring.recent[-left * per_row :]
        produced = max(ring.req_prod - len(tail), 0)
        out += [EMPTY, *hex_lines(tail, produced, width)][:left]
    return out


def _slot(ring: RingView, at: int, text: str) -> Line:
    place = " "
    style = "dim"
    for arc in arcs(ring):
        if arc.count and (at - arc.start) % max(ring.size, 1) < arc.count:
            place, style = {"waiting": "█", "backend": "▒", "answered": "═"}[arc.kind], ""
    return line(
        Span(f"{place} ", ARC_STYLES[{"█": "waiting", "▒": "backend", "═": "answered"}[place]] if place != " " else ""),
        Span(f"{at:>3} ", "dim"),
        Span(text, style),
    )


class RingWheel(Pane):
    """One ring: wheel, indices and content; beside each other where there is room."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("ring", id=id)
        self.ring: RingView | None = None
        self.rate = 0.0
        self.moved = 0

    def show(self, ring: RingView | None, rate: float = 0.0, moved: int = 0) -> None:
        """`rate` is what its producer moves a second, `moved` how far it came lately (the trail)."""
        if (ring, rate, moved) == (self.ring, self.rate, self.moved):
            return
        self.ring, self.rate, self.moved = ring, rate, moved
        self.set_title(ring.name if ring is not None else "ring")
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        ring = self.ring
        if ring is None:
            return [line(("no ring yet: the guest has not connected one", "dim"))]
        tall = min(height, width // 2, 32)
        if width >= 62 and height < 44 and width - min(tall, width // 4) * 2 >= 36:
            tall = min(tall, (width - 38) // 2)
            room = width - tall * 2 - 3
            facts = index_lines(ring, self.rate, room)
            facts += [EMPTY, *content_lines(ring, room, max(height, tall) - len(facts) - 1)]
            disc = wheel(ring, tall, self.moved)
            space = [EMPTY] * min(max((height - tall) // 3, 0), 1)
            return beside([*space, *disc], facts, tall * 2, 3)
        facts = index_lines(ring, self.rate, width)
        tall = max(min(tall, height - len(facts) - 6), 7)
        disc = [(Span(" " * ((width - tall * 2) // 2)), *spans) for spans in wheel(ring, tall, self.moved)]
        out = [*disc, EMPTY, *facts, EMPTY]
        return [*out, *content_lines(ring, width, max(height - len(out), 3))]


class RingList(ListPane):
    """All rings of the domain: a gauge of what is in flight in each, its flow, and whether it stands. The cursor keeps to the ring that
    was chosen, whatever comes and goes; until one is, it is on the first device's."""

    keys = "← → from any pane"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("rings", id=id)
        self.rings: tuple[RingView, ...] = ()
        self.rates: dict[str, float] = {}
        self._held = ""

    def show(self, rings: tuple[RingView, ...], rates: dict[str, float]) -> None:
        self.rings, self.rates = rings, rates
        first = next((at for at, ring in enumerate(rings) if not is_bytes(ring)), 0)
        self.cursor = next((at for at, ring in enumerate(rings) if ring.name == self._held), first)
        self.rebuild()

    def choose(self, row: int) -> None:
        super().choose(row)
        if self.cursor < len(self.rings):
            self._held = self.rings[self.cursor].name

    def forget(self) -> None:
        """Another domain comes."""
        self.cursor, self._held = 0, ""

    def build(self, width: int, height: int) -> Sequence[Line]:
        out = [line((f"  {fit('ring', 18)} in flight per s", "dim"))]
        for row, ring in enumerate(self.rings):
            flight = sum(arc.count for arc in arcs(ring))
            rate = self.rates.get(ring.name, 0.0)
            flag = Span("!", "trouble bold", "ring:stalled") if ring.stalled else Span(" ")
            spans = line(flag, fit(ring.name, 17), f" {flight:>4}/{ring.size:<5}", f"{byte_rate(rate) if is_bytes(ring) else amount(rate):>5}")
            out.append(self.marked(row, spans, width))
        if not self.rings:
            out.append(line(("none connected yet", "dim")))
        return [pad(spans, width) if spans else spans for spans in out]
