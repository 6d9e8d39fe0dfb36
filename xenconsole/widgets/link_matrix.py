"""The matrix of what domains share: a row a domain, a column a peer, and in the cell their event channels and grants.

Only what fits is built, so that a thousand rows cost no more than thirty. Row and column are held by domain ID, not by position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from emulator.control.views import DomainDetail, GrantsView, LinkView
from xenconsole.text_filter import TextFilter
from xenconsole.units import amount, counted, fit, printable, tally
from xenconsole.widgets.grants_panel import grant_lines
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line, pad
from xenconsole.widgets.pane import FilteredPane, Pane

CELL: Final = 19
NAME: Final = 18
WIDE: Final = 96
HEAD: Final = " ch !p  used/of  /s"
TITLE: Final = "event channels and grants between domains"
NOTHING: Final = LinkView(-1, -1)


def axes(links: Sequence[LinkView], names: Mapping[int, str], fitting: int, wanted: TextFilter) -> tuple[list[int], list[int]]:
    """Rows: all domains that `wanted` lets through, none without a guest. Columns: all domains where they fit, else those first that a
    row shares something with."""
    columns = sorted(names) if any(names) else []
    rows = [domid for domid in columns if wanted.matches(f"{domid} {names[domid]}")]
    if len(columns) <= fitting:
        return rows, columns
    own = set(rows)
    shared = {0} & names.keys() | {link.peer for link in links if link.domid in own}
    return rows, [*sorted(shared), *(domid for domid in columns if domid not in shared)]


def with_domain0(links: Sequence[LinkView]) -> dict[tuple[int, int], LinkView]:
    """The links by row and column, with those of Domain-0: its back ends are the far ends of what each guest shares with it.

    They give no grants, and take an event as it comes."""
    far = (LinkView(0, link.domid, link.ports, events=link.events, mapped=link.used) for link in links if not link.peer)
    return {(link.domid, link.peer): link for link in (*links, *far)}


def cell_spans(link: LinkView, rate: float) -> list[Span]:
    """`CELL` cells: channels, those with a waiting event, grants in use of those given (or the peer's that it uses), events a second."""
    if link is NOTHING:
        return [Span(f"{'·':^{CELL}}", "dim")]
    channels = f"{link.ports:>3}" if link.ports or not link.awaiting else f"{link.awaiting:>2}?"
    grants = f"{link.used}/{link.given}" if link.given or link.used else f"in {link.mapped}" if link.mapped else "–"
    if len(grants) > 7:  # a disk's thousand: how many it gave is said below
        grants = f"{link.used}/…"
    return [
        Span(channels, "bold" if link.ports else "dim", "link:ports" if link.ports else "link:awaiting"),
        Span(f" !{min(link.pending, 9)}" if link.pending else "   ", "notice bold", "link:pending"),
        Span(f" {grants:>7}", "ok" if link.used or link.mapped else "dim", "link:grants"),
        Span(f"{amount(rate):>5}", "graph" if rate else "dim", "link:rate"),
    ]


class LinkMatrix(FilteredPane):
    """Arrows go from cell to cell; what is chosen is `row` and `column`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right", "across(1)", "column", show=False, tooltip="the next column", id="matrix.right"),
        Binding("left", "across(-1)", "column", show=False, tooltip="the column before", id="matrix.left"),
    ]
    keys = "arrows choose a pair · / filters"
    filter_hint = "regular expression on the rows' ID and name; ! in front shows the others"

    class Chosen(Message):
        """Another cell was chosen."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(TITLE, id=id)
        self.names: Mapping[int, str] = {}
        self.row = self.column = -1
        self._cells: dict[tuple[int, int], LinkView] = {}
        self._rates: Mapping[str, float] = {}
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._first = self._left = 0
        self._links: Sequence[LinkView] = ()

    def show(self, links: Sequence[LinkView], names: Mapping[int, str], rates: Mapping[str, float]) -> None:
        """`names` are those of all domains; `rates` events a second by "domid.peer"."""
        self.names, self._rates, self._links = names, rates, links
        self._cells = with_domain0(links)
        self._lay_axes()

    def filtered(self) -> None:
        before = self.row, self.column
        self.set_title(f"{TITLE}{self.filter.shown}")
        self._lay_axes()
        if before != (self.row, self.column):
            self.post_message(self.Chosen())

    def _lay_axes(self) -> None:
        self._rows, self._columns = axes(self._links, self.names, self._fitting, self.filter)
        first = self.row if self.row >= 0 else 1  # a guest to begin with
        self.row, self.column = _nearest(self._rows, first), _nearest(self._columns, self.column)
        self.rebuild()

    @property
    def chosen(self) -> LinkView:
        """The link under the cursor; one of zeros where there is none."""
        return self._cells.get((self.row, self.column), LinkView(self.row, self.column))

    @property
    def _named_in(self) -> int:
        """Cells for a row's name: fewer where they make room for a column more."""
        return NAME if self.content_size.width >= WIDE else NAME - 2

    @property
    def _fitting(self) -> int:
        return max((self.content_size.width - self._named_in) // (CELL + 1), 1)

    def name_of(self, domid: int) -> str:
        return f"{domid} {printable(self.names.get(domid, '(not there)'))}"

    def subtitle(self) -> str:
        rows = set(self._rows)
        guests = [(row, column) for row, column in self._cells if row and row in rows]
        shared = sum(1 for row, column in guests if row != column and column)
        beyond = f", {shared} between guests" if shared else ""
        return f"{counted(len(self._rows), 'domain')}, {counted(len(guests), 'link')}{beyond}" if self._rows else ""

    def build(self, width: int, height: int) -> Sequence[Line]:
        if not self._rows and self._columns:
            return [EMPTY, line("no domain matches"), line(("Esc takes the filter away", "dim"))]
        if not self._rows:
            return [EMPTY, line("no guest runs"), line((":create FILE makes one; what it shares is shown here", "dim"))]
        room, body = self._fitting, max(height - 2, 1)
        at, across = self._rows.index(self.row), self._columns.index(self.column)
        self._first = max(min(self._first, at, max(len(self._rows) - body, 0)), at - body + 1)
        self._left = max(min(self._left, across, max(len(self._columns) - room, 0)), across - room + 1)
        columns = self._columns[self._left : self._left + room]
        hidden = len(self._columns) - len(columns)
        corner = Span(fit(f"+{hidden} to the side" if hidden else "who · with whom", self._named_in), "dim")
        heads = [Span(fit(self.name_of(peer), CELL) + " ", "bold" if peer == self.column else "") for peer in columns]
        out: list[Line] = [(corner, *heads), (Span(" " * self._named_in), *(Span(fit(HEAD, CELL) + " ", "dim", "link:cell") for _ in columns))]
        for domid in self._rows[self._first : self._first + body]:
            out.append(tuple(self._row(domid, columns)))
        return out

    def _row(self, domid: int, columns: Sequence[int]) -> list[Span]:
        mine = domid == self.row
        spans = [Span(fit(("▸ " if mine else "  ") + self.name_of(domid), self._named_in - 1) + " ", "bold" if mine else "")]
        for peer in columns:
            cell = cell_spans(self._cells.get((domid, peer), NOTHING), self._rates.get(f"{domid}.{peer}", 0.0))
            if mine and peer == self.column:
                cell = [span._replace(style="reverse", text=span.text) for span in pad(tuple(cell), CELL)]
            spans += [*pad(tuple(cell), CELL), Span(" ")]
        return spans

    # moving

    def action_step(self, delta: int) -> None:
        self._move(delta, 0)

    def action_page(self, delta: int) -> None:
        self._move(delta * max(self.content_size.height - 3, 1), 0)

    def action_edge(self, side: int) -> None:
        self._move(side * len(self._rows), 0)

    def action_across(self, delta: int) -> None:
        self._move(0, delta)

    def scroll_lines(self, delta: int) -> None:
        self._move(delta, 0)

    def _move(self, down: int, right: int) -> None:
        if not self._rows:
            return
        at = min(max(self._rows.index(self.row) + down, 0), len(self._rows) - 1)
        across = min(max(self._columns.index(self.column) + right, 0), len(self._columns) - 1)
        self._choose(self._rows[at], self._columns[across])

    def _choose(self, row: int, column: int) -> None:
        if (row, column) != (self.row, self.column):
            self.row, self.column = row, column
            self.rebuild()
            self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or offset.y < 2 or offset.x < self._named_in:
            return
        row, column = self._first + offset.y - 2, self._left + (offset.x - self._named_in) // (CELL + 1)
        if row < len(self._rows) and column < len(self._columns):
            event.prevent_default()  # no explanation: a pair was chosen
            self._choose(self._rows[row], self._columns[column])


def _nearest(domids: Sequence[int], domid: int) -> int:
    """The domain itself while it is there, else the next one by ID; -1 when there is none."""
    if domid in domids:
        return domid
    return min((one for one in domids if one >= domid), default=domids[-1]) if domids else -1


def port_lines(link: LinkView, detail: DomainDetail, rates: Mapping[str, float], width: int) -> list[Line]:
    """The channels behind a cell, a line each."""
    ports = [port for port in detail.ports if port.peer == link.peer]
    if not ports:
        return [line(("no event channel between them", "dim"))]
    room = min(max(width - 44, 12), 40)
    out = [line((f"{'port':>6} {fit('kind', 11)} {fit('bound to', room)} {'pending':<8}{'masked':<7}{'count':>9} {'per s':>6}", "dim"))]
    out += [
        line(
            Span(f"{port.port:>6} "),
            Span(f"{port.kind:<11} ", "", f"port:{port.kind}"),
            Span(fit(printable(port.bound), room) + " "),
            Span("pending " if port.pending else "   –    ", "notice bold" if port.pending else "dim", "port:pending"),
            Span("masked " if port.masked else "  –    ", "state-paused" if port.masked else "dim", "port:masked"),
            Span(f"{tally(port.count):>9} ", "", "port:count"),
            Span(f"{amount(rates.get(str(port.port), 0.0)):>6}", "graph"),
        )
        for port in ports
    ]
    return out


class LinkPane(Pane):
    """What lies behind the chosen cell: each channel, each grant, each mapped frame."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("the pair", id=id)
        self.link = NOTHING
        self.detail: DomainDetail | None = None
        self.rates: Mapping[str, float] = {}
        self.names: Mapping[int, str] = {}

    def show(self, link: LinkView, detail: DomainDetail | None, rates: Mapping[str, float], names: Mapping[int, str]) -> None:
        """`detail` is that of the link's own domain, with ports and grants; `rates` events a second by port."""
        self.link, self.detail, self.rates, self.names = link, detail, rates, names
        self.set_title(f"{self._named(link.domid)} with {self._named(link.peer)}" if link.domid >= 0 else "the pair")
        self.rebuild()

    def _named(self, domid: int) -> str:
        return f"{domid} {printable(self.names.get(domid, '(not there)'))}"

    def subtitle(self) -> str:
        return f"{self.link.ports} channels, {self.link.given} grants given, {self.link.mapped} frames mapped" if self.link.domid >= 0 else ""

    def _back_ends(self, detail: DomainDetail, width: int) -> list[Line]:
        """Domain-0 with a guest: the same channels from their other end, and the guest's frames that the back ends use."""
        whose = printable(detail.domain.name)
        out = [line((f"Domain-0's back ends at the far ends of {whose}'s channels, which have {whose}'s port numbers here", "dim"))]
        out += [*port_lines(LinkView(detail.domain.domid, 0), detail, self.rates, width), EMPTY]
        used = [grant for grant in detail.grants.given if not grant.domid and grant.users] if detail.grants is not None else []
        out.append(line(Span("in  ", "bold", "grant:in"), Span(f"{counted(len(used), 'frame')} of {whose} in use at this moment")))
        for grant in used:
            numbers = Span(f"{grant.ref:>6} ", "", "grant:ref"), Span(f"pfn {grant.pfn:>6x}  ", "", "grant:pfn")
            out.append(line(*numbers, Span(grant.users, "ok", "grant:users")))
        return [cut(spans, width) for spans in out]

    def build(self, width: int, height: int) -> Sequence[Line]:
        link, detail = self.link, self.detail
        if detail is not None and not link.domid and detail.domain.domid == link.peer:
            return self._back_ends(detail, width)
        if not link.domid and not link.peer:
            return [line(("Domain-0 with itself: its back ends share memory with guests alone", "dim"))]
        if detail is None or detail.domain.domid != link.domid:
            return [line(("choose a pair above", "dim"))]
        out = [*port_lines(link, detail, self.rates, width), EMPTY]
        grants = detail.grants
        if grants is None:
            return out
        given = tuple(grant for grant in grants.given if grant.domid == link.peer)
        mapped = tuple(mapping for mapping in grants.mapped if mapping.domid == link.peer)
        out += grant_lines(GrantsView(grants.version, grants.frames, grants.limit, given, mapped), width, self._named)
        if link.given > len(given):
            out.append(line((f"…  and {link.given - len(given)} more grants", "dim")))
        return out
