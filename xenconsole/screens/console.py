"""Guest consoles, full screen: one guest, or two or four side by side.

Every key is the guest's but two, both rebindable (settings `keys."console.escape"` and `keys.to-console-1` … 9): the way
back, Ctrl-], and Alt+1…9, straight to that domain's console. The app binds nothing else while a console is in front.
A guest that ended leaves its last screen readable, a line says how it ended, and any key returns; one that is restarted is
followed into its new domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from textual import on
from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.events import Key, Resize
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from emulator.control.views import DomainView, Overview
from xenconsole.app_protocol import Client, EngineNotice, OverviewArrived, shell
from xenconsole.terminal.hub import ConsoleHub
from xenconsole.terminal.session import ConsoleSession
from xenconsole.terminal.unicode_cells import clean_label
from xenconsole.widgets.domain_summary import state_letter
from xenconsole.widgets.terminal_view import TerminalView
from xenconsole.widgets.vcpu_panel import state_span

BACK_KEY = "ctrl+right_square_bracket"
SWITCH_KEYS = tuple(f"alt+{digit}" for digit in range(1, 10))
KEY_NAMES = {
    "]": "right_square_bracket",
    "[": "left_square_bracket",
    "\\": "backslash",
    "^": "circumflex_accent",
    "_": "underscore",
}
"""Signs that Textual spells out."""
MOST_TILES = 4
NARROW_COLUMNS = 100
"""Below it two tiles stand one above the other."""

_REASONS = {"poweroff": "powered off", "reboot": "rebooted", "crash": "crashed", "suspend": "suspended"}


@runtime_checkable
class _Keyring(Protocol):
    """The app's settings, as far as keys go."""

    def key(self, name: str, default: str) -> str: ...


class _Defaults:
    """Settings of an app that has none."""

    def key(self, name: str, default: str) -> str:
        return default


def key_names(spelled: str) -> tuple[str, ...]:
    """Keys as a settings file spells them ("ctrl+]", "alt+1"), by Textual's names."""
    keys = []
    for key in spelled.split(","):
        *modifiers, name = key.strip().split("+")
        keys.append("+".join((*modifiers, KEY_NAMES.get(name, name))))
    return tuple(keys)


def key_label(key: str) -> str:
    """A key for people: Ctrl-], Alt+1."""
    *modifiers, name = key.split("+")
    name = next((sign for sign, named in KEY_NAMES.items() if named == name), name)
    joint = "-" if modifiers == ["ctrl"] else "+"
    return joint.join((*(m.capitalize() for m in modifiers), name))


def hub_of(node: Widget | Screen[object]) -> ConsoleHub:
    """The app's hub of consoles (`app.consoles`), made when it has none yet."""
    app = node.app
    hub = getattr(app, "consoles", None)
    client = shell(node).client
    if not isinstance(hub, ConsoleHub) or hub.client is not client:  # another engine, another hub
        hub = ConsoleHub(client)
        setattr(app, "consoles", hub)  # noqa: B010  # an app that knows of it declares it
    return hub


class TitleLine(Static):
    """One line: left the guest, right the keys as long as there is room for them."""

    _shown: tuple[object, ...] = ()

    def show(self, name: str, state: str, rest: str, hints: Sequence[str]) -> None:
        """Draw it anew if it changed; of `hints` the first that fits is taken."""
        width = max(self.size.width, 1)
        left = f" {name} · {state}{rest}"
        hint = next((h for h in hints if len(left) + len(h) + 3 <= width), "")
        shown = (name, state, rest, hint, width)
        if shown == self._shown:
            return
        self._shown = shown
        fill = " " * max(width - len(left) - len(hint) - 1, 0)
        known = ("running", "blocked", "paused", "crashed")
        style = f"$state-{'paused' if state == 'waiting' else state if state in known else 'down'}"
        self.update(Content.assemble((f" {name}", "bold"), " · ", (state, style), f"{rest}{fill}", (hint, "$dim")), layout=False)


class ConsoleTile(Container):
    """One guest: its title line, its terminal, and the line that tells its end."""

    def __init__(self, session: ConsoleSession, screen: ConsoleScreen) -> None:
        super().__init__()
        self.session = session
        self.owner = screen
        self.domain: DomainView | None = None
        self.view = TerminalView(session, keep_key=screen.keeps, may_type=screen.may_type, ended=lambda: bool(self.epitaph()))
        self._unlisten = session.listen(self._told)

    def compose(self) -> ComposeResult:
        yield TitleLine()
        yield self.view
        yield Static(classes="epitaph")

    def on_unmount(self) -> None:
        self._unlisten()

    def on_resize(self) -> None:
        self.call_after_refresh(self.update_title)

    def replace(self, session: ConsoleSession) -> None:
        """Show another guest's console here."""
        self._unlisten()
        self.session = session
        self.domain = None
        self._unlisten = session.listen(self._told)
        self.remove_class("ended", "quiet")
        self.view.attach(session)
        self.look(shell(self).overview)

    def _told(self, dirty: frozenset[int] | None) -> None:
        if dirty is None:
            self.call_later(self.update_title)

    def look(self, overview: Overview) -> None:
        """Take the newest view of the domain, and follow it when it was restarted."""
        ending = self.session.ending
        found = next((d for d in overview.domains if d.domid == self.session.domid), None)
        if found is not None:
            self.domain = found
        elif ending is not None and (successor := self._successor(overview, ending.successor)) >= 0:
            self.owner.follow(self, successor)
            return
        self.update_title()

    def _successor(self, overview: Overview, told: int) -> int:
        """The domain restarted in this one's place: the one that the engine names, else a newer one of the same name."""
        alive = {d.domid: d for d in overview.domains}
        if told in alive:
            return told
        name = self.domain.name if self.domain is not None else ""
        return max((d.domid for d in alive.values() if name and d.name == name and d.domid > self.session.domid), default=-1)

    def update_title(self) -> None:
        """Draw the title line, and the epitaph when there is one."""
        if not self.is_mounted:
            return
        domain, session = self.domain, self.session
        name = clean_label(domain.name, 40) if domain is not None and domain.name else f"domain {session.domid}"
        ended = self.epitaph()
        state = ended.partition(":")[0] if ended else state_span(state_letter(domain)).text if domain is not None else "…"
        parts = [f"domain {session.domid}"]
        if session.core.title and not ended:
            parts.append(f"“{clean_label(session.core.title, 30)}”")
        if self.view.scrolled:
            parts.append(f"↑ {self.view.scrolled} of {session.core.history_end - session.core.history_start} lines")
        if shell(self).read_only:
            parts.append("read-only")
        self.query_one(TitleLine).show(name, state, "".join(f" · {part}" for part in parts), self.owner.key_hints)
        if ended and not self.has_class("ended"):
            crashed = "crash" in ended
            self.query_one(".epitaph", Static).update(Content(f" {name}: {ended}. Any key returns."))
            self.set_class(not crashed, "quiet")
            self.add_class("ended")
        elif not ended:
            self.remove_class("ended", "quiet")

    def epitaph(self) -> str:
        """How the guest ended, in a few words; empty while it lives."""
        domain, ending = self.domain, self.session.ending
        if domain is not None and (domain.shutdown or "c" in domain.state[4:5]):
            reason = domain.shutdown or "crash"
            return f"crashed: {clean_label(domain.crash, 200)}" if domain.crash else _REASONS.get(reason, reason)
        if ending is None:
            return ""
        return _REASONS.get(ending.reason, clean_label(ending.reason, 200)) or "ended"


class ConsoleScreen(Screen[None], inherit_bindings=False):
    """The consoles of up to four domains."""

    CSS_PATH = "console.tcss"
    ESCAPE_TO_MINIMIZE = False

    def __init__(self, client: Client, domids: Sequence[int]) -> None:
        super().__init__()
        self.client = client
        self._domids = tuple(dict.fromkeys(domids))[:MOST_TILES]
        self._back: tuple[str, ...] = ()
        self._switch: dict[str, int] = {}
        self.key_hints: tuple[str, ...] = ()

    @property
    def domids(self) -> tuple[int, ...]:
        """The domains shown, one a tile."""
        tiles = self.tiles
        return tuple(tile.session.domid for tile in tiles) if tiles else self._domids

    @property
    def tiles(self) -> list[ConsoleTile]:
        return list(self.query(ConsoleTile))

    @property
    def focused_tile(self) -> ConsoleTile | None:
        return next((tile for tile in self.tiles if tile.view.has_focus), None)

    # life

    def compose(self) -> ComposeResult:
        self._read_keys()
        hub = hub_of(self)
        for domid in self._domids:
            yield ConsoleTile(hub.session(domid), self)

    def _read_keys(self) -> None:
        settings = getattr(self.app, "settings", None)
        keyring = settings if isinstance(settings, _Keyring) else _Defaults()
        self._back = key_names(keyring.key("console.escape", BACK_KEY))
        self._switch = {}
        for digit in range(1, 10):
            for key in key_names(keyring.key(f"to-console-{digit}", f"alt+{digit}")):
                self._switch.setdefault(key, digit)
        first = next(iter(self._switch))
        switch = "Alt+1…9" if set(SWITCH_KEYS) == set(self._switch) else f"{key_label(first)}…"
        back = key_label(self._back[0])
        self.key_hints = (f"{back} back · {switch} switch", f"{back} · {switch}", back)

    def on_mount(self) -> None:
        self.set_class(len(self._domids) == 2, "two")
        self.set_class(len(self._domids) > 2, "four")
        self._show()
        if tiles := self.tiles:
            tiles[0].view.focus()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width < NARROW_COLUMNS, "narrow")

    def on_screen_resume(self) -> None:
        self._show()
        for tile in self.tiles:  # another screen may have shown the same guest at its own size
            tile.view.attach(tile.session)

    def on_screen_suspend(self) -> None:
        for tile in self.tiles:
            tile.view.detach()
        hub_of(self).show(())

    def _show(self) -> None:
        hub_of(self).show(self.domids)
        self._look(shell(self).overview)

    # news

    @on(OverviewArrived)
    def _overview(self, message: OverviewArrived) -> None:
        self._look(message.overview)

    def _look(self, overview: Overview) -> None:
        for tile in self.tiles:
            tile.look(overview)

    @on(EngineNotice)
    def _notice(self, message: EngineNotice) -> None:
        if message.kind in ("state", "gone"):
            self._look(shell(self).overview)

    @on(TerminalView.Moved)
    def _moved(self, message: TerminalView.Moved) -> None:
        message.stop()
        for tile in self.tiles:
            if tile.view is message.view:
                tile.update_title()

    def follow(self, tile: ConsoleTile, domid: int) -> None:
        """The tile's domain was restarted as `domid`."""
        tile.replace(hub_of(self).session(domid))
        hub_of(self).show(self.domids)

    # keys

    def keeps(self, key: str) -> bool:
        """Whether a key is not the guest's."""
        return key in self._back or key in self._switch

    def may_type(self) -> bool:
        """Whether guests may be typed to: not in a read-only display."""
        return not shell(self).read_only

    def key_event(self, key: str) -> bool:
        """Carry out a key that the screen keeps; False when it is none."""
        if key in self._back:
            shell(self).back()
        elif key in self._switch:
            self.switch(self._switch[key])
        else:
            return False
        return True

    def on_key(self, event: Key) -> None:
        """Keys come here when the terminal let them through, or when nothing has the focus."""
        if self.key_event(event.key):
            event.stop()
            event.prevent_default()

    def switch(self, domid: int) -> None:
        """Straight to a domain's console: in its tile, in the focused one, or on its own screen."""
        if not self.switch_tile(domid):
            shell(self).switch_console(domid)

    def switch_tile(self, domid: int) -> bool:
        """Focus the domain's tile; where there are several and none is its, show it in the focused one. False when this
        screen has no tile for it."""
        for tile in self.tiles:
            if tile.session.domid == domid:
                tile.view.focus()
                return True
        focused = self.focused_tile
        if len(self.tiles) < 2 or focused is None or domid not in self._known():
            return False
        self.follow(focused, domid)
        return True

    def _known(self) -> Iterable[int]:
        return {domain.domid for domain in shell(self).overview.domains}

    @on(TerminalView.Typed)
    def _typed_after_the_end(self, message: TerminalView.Typed) -> None:
        message.stop()
        shell(self).back()
