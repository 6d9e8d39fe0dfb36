"""One line at the bottom that takes a command or a filter, with completion and history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Static

from xenconsole.screens.dialog import Dialog
from xenconsole.units import fit

SHOWN = 6


class PromptScreen(Dialog[str | None]):
    """Dismissed with the line on Enter, None on Escape. `complete(line)` gives words for the last one, `hint(line)` a line of
    help, `watch(line)` is told of every change and may answer with what is wrong."""

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "cancel", "Cancel", show=False, id="prompt.cancel"),
        # none has priority: keys that were typed before Tab must reach the line before Tab completes it
        Binding("tab", "complete(1)", "Complete", show=False, id="prompt.complete"),
        Binding("shift+tab", "complete(-1)", "Complete back", show=False, id="prompt.complete-back"),
        Binding("up", "history(-1)", "Older", show=False, id="prompt.older"),
        Binding("down", "history(1)", "Newer", show=False, id="prompt.newer"),
    ]

    def __init__(
        self,
        sign: str,
        line: str = "",
        *,
        complete: Callable[[str], list[str]] | None = None,
        hint: Callable[[str], str] | None = None,
        watch: Callable[[str], str] | None = None,
        history: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._sign, self._first = sign, line
        self._complete, self._hint, self._watch_line = complete, hint, watch
        self._history = [*history, line]
        self._place = len(self._history) - 1
        self._candidates: list[str] = []
        self._chosen = -1
        self._stem = ""
        self._looked = line
        self._setting = False

    def compose(self) -> ComposeResult:
        with Vertical(id="prompt"):
            yield Static(id="candidates", markup=False)
            yield Static(id="hint", markup=False)
            with Horizontal(id="line"):
                yield Static(self._sign, id="sign", markup=False)
                yield Input(self._first, id="typed", select_on_focus=False, compact=True)

    def on_mount(self) -> None:
        entry = self.query_one(Input)
        entry.cursor_position = len(self._first)
        self._look()
        self.call_later(entry.focus)

    def on_key(self, event: events.Key) -> None:
        """Keys that were sent before the line had the focus (it keeps those it gets): whoever types fast loses none."""
        if event.key == "enter":
            event.stop()
            self.dismiss(self.query_one(Input).value)
        elif event.character is not None and event.is_printable:
            event.stop()
            self.query_one(Input).insert_text_at_cursor(event.character)

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._setting:
            self._setting = False
        else:
            self._chosen = -1
            self._look()
        self._tell()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)

    def on_click(self, event: events.Click) -> None:
        if event.widget is self:
            self.dismiss(None)

    def action_cancel(self) -> None:
        self.dismiss(None)

    def _look(self) -> None:
        """Find the words that could follow and show them."""
        line = self._looked = self.query_one(Input).value
        self._candidates = self._complete(line)[:200] if self._complete is not None else []
        self._stem = line[: len(line) - len(line.rsplit(" ", 1)[-1])]
        self._draw()

    def _draw(self) -> None:
        width = max(self.size.width - 4, 20)
        column = min(max((len(c) for c in self._candidates), default=0) + 2, width)
        across = max(width // max(column, 1), 1)
        first = max(self._chosen, 0) // (across * SHOWN) * (across * SHOWN)
        rows = []
        for start in range(first, min(len(self._candidates), first + across * SHOWN), across):
            words = self._candidates[start : start + across]
            rows.append("".join(fit(("›" if start + i == self._chosen else " ") + w, column) for i, w in enumerate(words)))
        box = self.query_one("#candidates", Static)
        box.display = bool(rows)
        box.update("\n".join(rows))
        self._tell()

    def _tell(self) -> None:
        line = self.query_one(Input).value
        wrong = self._watch_line(line) if self._watch_line is not None else ""
        self.query_one("#hint", Static).update(wrong or (self._hint(line) if self._hint is not None else ""))

    def _put(self, line: str) -> None:
        entry = self.query_one(Input)
        if entry.value != line:
            self._setting = True
            entry.value = line
        entry.cursor_position = len(line)

    def action_complete(self, by: int) -> None:
        """The only word, else each in turn."""
        if self._chosen < 0 and self._looked != self.query_one(Input).value:
            self._look()
        if not self._candidates:
            return
        if len(self._candidates) == 1:
            self._put(self._stem + self._candidates[0] + " ")
            self._look()
            return
        self._chosen = (self._chosen + by) % len(self._candidates) if self._chosen >= 0 or by > 0 else len(self._candidates) - 1
        self._put(self._stem + self._candidates[self._chosen])
        self._draw()

    def action_history(self, by: int) -> None:
        """Older and newer lines."""
        place = min(max(self._place + by, 0), len(self._history) - 1)
        if place != self._place:
            self._place = place
            self._put(self._history[place])
            self._chosen = -1
            self._look()
