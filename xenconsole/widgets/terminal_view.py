"""A guest's screen as a line-API widget: cells drawn from the terminal core, keys, mouse and pastes sent to the guest.

Only rows that changed are drawn anew. The view shows a window on one sequence of lines, history first and then the screen,
each line by its number since the guest's first; `top` is the number of the first line shown, or None to follow the guest.
Selections hold line numbers too, so that they stay on their text while the guest writes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from xenconsole.terminal.core import PLAIN, Line
from xenconsole.terminal.keys import (
    MOVE,
    PRESS,
    RELEASE,
    WHEEL_DOWN,
    WHEEL_UP,
    focus_bytes,
    key_bytes,
    mouse_bytes,
    paste_bytes,
)
from xenconsole.terminal.session import ConsoleSession
from xenconsole.widgets.terminal_cells import columns_text, restyled, rich_style, word_at

WHEEL_LINES = 3
_BLANK: Line = ()
_BUTTONS = {1: 0, 2: 1, 3: 2}


class TerminalView(Widget, can_focus=True):
    """The terminal of one session. Posts Escaped for keys its screen keeps, Moved when the place in the scrollback changes."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"terminal-view--selection"}
    DEFAULT_CSS = """
    TerminalView { width: 1fr; height: 1fr; }
    TerminalView > .terminal-view--selection { background: $primary 60%; }
    """

    class Moved(Message):
        """Scrolled, or followed again."""

        def __init__(self, view: TerminalView) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> TerminalView:
            return self.view

    class Typed(Message):
        """A key after the guest's death."""

        def __init__(self, view: TerminalView) -> None:
            super().__init__()
            self.view = view

    def __init__(
        self,
        session: ConsoleSession,
        *,
        keep_key: Callable[[str], bool] = lambda key: False,
        may_type: Callable[[], bool] = lambda: True,
        ended: Callable[[], bool] | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.session = session
        self.keep_key = keep_key  # keys that the screen handles instead of the guest
        self.may_type = may_type
        self.ended = ended or (lambda: self.session.ending is not None)
        self._unlisten: Callable[[], None] | None = None
        self._strips: dict[int, Strip] = {}
        self._base: Style | None = None  # of the widget itself, worked out once a repaint
        self._top: int | None = None
        self._cursor_row = -1
        self._anchor: tuple[int, int] | None = None  # (line number, column) where a selection began
        self._head: tuple[int, int] | None = None
        self._selecting = False
        self._button = 3  # held down on the guest, in xterm's numbers; 3 none

    # session

    def on_mount(self) -> None:
        self.attach(self.session)

    def on_unmount(self) -> None:
        self.detach()

    def attach(self, session: ConsoleSession) -> None:
        """Show this session from now on, at this widget's size."""
        self.detach()
        self.session = session
        self._unlisten = session.listen(self._changed)
        self._top = self._anchor = self._head = None
        self._fit()
        self._repaint()

    def detach(self) -> None:
        """Stop following the session; the picture stays."""
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    def _fit(self) -> None:
        if self.size.width >= 2 and self.size.height >= 1:
            self.session.core.resize(self.size.width, self.size.height)

    def on_resize(self) -> None:
        self._fit()
        self._repaint()

    def _repaint(self) -> None:
        self._strips.clear()
        self._base = None
        self.refresh()

    def notify_style_update(self) -> None:
        self._strips.clear()
        self._base = None
        super().notify_style_update()

    def _changed(self, dirty: frozenset[int] | None) -> None:
        """The session parsed: rows of its screen changed."""
        if dirty is None:
            return
        core, height = self.session.core, self.size.height
        if self._top is not None:
            if self._top < core.history_start:
                self._top = core.history_start
                self._repaint()
            elif self._top + height > core.history_end:
                self._repaint()
            self.post_message(self.Moved(self))
            return
        cursor = core.cursor.y
        rows = {row for row in (*dirty, cursor, self._cursor_row) if 0 <= row < height}
        if len(rows) > height // 2 or self._anchor is not None:
            self._repaint()
            return
        for row in rows:
            self._strips.pop(row, None)
        if rows:
            self.refresh(*(Region(0, row, self.size.width, 1) for row in rows))

    # picture

    @property
    def top(self) -> int:
        """Number of the first line shown."""
        core = self.session.core
        return core.history_end if self._top is None else self._top

    @property
    def scrolled(self) -> int:
        """Lines above the guest's screen, 0 when following it."""
        return 0 if self._top is None else max(0, self.session.core.history_end - self._top)

    def _line(self, number: int) -> Line:
        core = self.session.core
        row = number - core.history_end
        if row < 0:
            return core.history(number)
        return core.screen(row) if row < core.rows else _BLANK

    def render_line(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._strip(y)
        return strip

    def _strip(self, y: int) -> Strip:
        if self._base is None:
            self._base = self.rich_style
        base = self._base
        width = self.size.width
        number = self.top + y
        segments = [
            Segment(" " * cell_len(text) if style.conceal else text, base if style is PLAIN else base + rich_style(style))
            for text, style in self._line(number)
        ]
        strip = Strip(segments).adjust_cell_length(width, base)
        if (span := self._selected(number)) is not None:
            strip = restyled(strip, *span, self.get_component_rich_style("terminal-view--selection", partial=True))
        core = self.session.core
        cursor = core.cursor
        if number - core.history_end == cursor.y and cursor.visible and not self.ended():
            look = Style(reverse=True) if self.has_focus else Style(underline=True)
            wide = cell_len(columns_text(core.screen(cursor.y), cursor.x, cursor.x + 1)) == 2
            strip = restyled(strip, cursor.x, cursor.x + 1 + wide, look)
            self._cursor_row = y
        return strip

    # scrollback

    def scroll_lines(self, lines: int) -> None:
        """Move the window by lines, up when negative; at the bottom it follows the guest again."""
        core = self.session.core
        top = max(core.history_start, self.top + lines)
        new = None if top >= core.history_end else top
        if new != self._top:
            self._top = new
            self._repaint()
            self.post_message(self.Moved(self))

    def follow(self) -> None:
        """Back to the guest's screen."""
        if self._top is not None:
            self._top = None
            self._repaint()
            self.post_message(self.Moved(self))

    # keys

    def on_key(self, event: events.Key) -> None:
        """Every key is the guest's but those the screen keeps."""
        if self.keep_key(event.key):
            return
        event.stop()
        event.prevent_default()
        if event.key == "shift+pageup":
            self.scroll_lines(1 - self.size.height)
        elif event.key == "shift+pagedown":
            self.scroll_lines(self.size.height - 1)
        elif event.key == "ctrl+shift+c":
            self.copy_selection()
        elif self.ended():
            self.post_message(self.Typed(self))
        elif data := key_bytes(event.key, event.character, self.session.core.modes):
            self._type(data)

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        if data := paste_bytes(event.text, self.session.core.modes):
            self._type(data)

    def _type(self, data: bytes) -> None:
        if not self.may_type():
            return
        self.follow()
        self.clear_selection()
        self.session.type(data)

    def on_focus(self) -> None:
        self._focus_changed(True)

    def on_blur(self) -> None:
        self._focus_changed(False)

    def _focus_changed(self, focused: bool) -> None:
        self._repaint()
        if (data := focus_bytes(focused, self.session.core.modes)) and self.may_type():
            self.session.type(data)

    # mouse

    def _report(self, action: str, button: int, event: events.MouseEvent) -> bool:
        """Send a mouse report when the guest asked for it; Shift keeps the mouse for ourselves, as in every terminal."""
        if event.shift or self._top is not None or not self.may_type():
            return False
        modes = self.session.core.modes
        data = mouse_bytes(action, button, event.x, event.y, modes, alt=event.meta, ctrl=event.ctrl)
        if data is not None:
            self.session.type(data)
        return bool(modes.mouse)

    def _wheel(self, event: events.MouseEvent, up: bool) -> None:
        event.stop()
        event.prevent_default()
        if self._report(PRESS, WHEEL_UP if up else WHEEL_DOWN, event):
            return
        modes = self.session.core.modes
        if modes.alternate_screen and not event.shift and self._top is None:
            data = key_bytes("up" if up else "down", None, modes)
            if data is not None and self.may_type():
                self.session.type(data * WHEEL_LINES)
            return
        self.scroll_lines(-WHEEL_LINES if up else WHEEL_LINES)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel(event, True)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(event, False)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        event.stop()
        button = _BUTTONS.get(event.button, 3)
        if self._report(PRESS, button, event):
            self._button = button
            self.capture_mouse()
        elif button == 0:
            self.clear_selection()
            self._anchor = self._head = (self.top + event.y, event.x)
            self._selecting = True
            self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        event.stop()
        if self._selecting:
            height = self.size.height
            if event.y < 0:
                self.scroll_lines(-1)
            elif event.y >= height:
                self.scroll_lines(1)
            y = min(max(event.y, 0), height - 1)
            self._head = (self.top + y, min(max(event.x, 0), self.size.width))
            self._repaint()
        else:
            self._report(MOVE, self._button, event)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        event.stop()
        self.capture_mouse(False)
        if self._selecting:
            self._selecting = False
            if self._anchor == self._head:
                self.clear_selection()
            else:
                self.copy_selection()
        elif self._button != 3:
            self._report(RELEASE, self._button, event)
            self._button = 3

    def on_click(self, event: events.Click) -> None:
        """Twice for the word, three times for the line."""
        event.stop()
        if event.chain < 2 or (self.session.core.modes.mouse and not event.shift):
            return
        number = self.top + event.y
        line = self._line(number)
        if event.chain == 2:
            start, end = word_at(line, event.x)
        else:
            start, end = 0, self.size.width
        self._anchor, self._head = (number, start), (number, end)
        self._repaint()
        self.copy_selection()

    # selection

    def clear_selection(self) -> None:
        if self._anchor is not None:
            self._anchor = self._head = None
            self._repaint()

    def _selected(self, number: int) -> tuple[int, int] | None:
        """Columns of a line that are selected."""
        if self._anchor is None or self._head is None or self._anchor == self._head:
            return None
        (first, start), (last, end) = sorted((self._anchor, self._head))
        if not first <= number <= last:
            return None
        return (start if number == first else 0, end if number == last else self.size.width)

    @property
    def selected_text(self) -> str:
        """The selection as text, without blanks at line ends."""
        if self._anchor is None or self._head is None:
            return ""
        first, last = sorted((self._anchor[0], self._head[0]))
        lines = []
        for number in range(max(first, self.session.core.history_start), last + 1):
            span = self._selected(number)
            lines.append(columns_text(self._line(number), *span).rstrip() if span else "")
        return "\n".join(lines)

    def copy_selection(self) -> None:
        """To the clipboard of the person's terminal, by OSC 52."""
        if text := self.selected_text:
            self.app.copy_to_clipboard(text)
