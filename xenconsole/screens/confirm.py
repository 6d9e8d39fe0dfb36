"""Dialogs that ask before a command acts: y or n, or the domain's name typed when nothing could bring it back."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.geometry import Size
from textual.widgets import Button, Input, Static

from xenconsole.screens.dialog import Dialog


class ConfirmScreen(Dialog[bool]):
    """Asks `question`; dismissed with True only on a clear yes. With `must_type` the yes is typing that text."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", show=False, id="confirm.yes"),
        Binding("n,escape,ctrl+c", "answer(False)", "No", show=False, id="confirm.no"),
        Binding("left,right", "app.focus_next", show=False, id="confirm.other"),
    ]

    def __init__(self, question: str, *, loses: str = "", yes: str = "Yes", must_type: str = "") -> None:
        super().__init__()
        self._question, self._loses, self._yes, self._must_type = question, loses, yes, must_type

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(self._question, id="question", markup=False)
            if self._loses:
                yield Static(self._loses, id="loses", markup=False)
            if self._must_type:
                yield Static(f"Type  {self._must_type}  to go on.", id="ask", markup=False)
                yield Input(id="typed", compact=True)
            with Horizontal(id="buttons"):
                yield Button("Cancel" if self._must_type else "No (n)", id="no", compact=True)
                yield Button(self._yes if self._must_type else f"{self._yes} (y)", id="yes", variant="error", compact=True)

    def on_mount(self) -> None:
        self.query_one("#dialog").border_title = "are you sure?"
        if self._must_type:
            self.query_one("#yes", Button).disabled = True
            self.query_one(Input).focus()
        else:
            self.query_one("#no").focus()

    def action_answer(self, yes: bool) -> None:
        if not yes or not self._must_type:
            self.dismiss(yes)

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one("#yes", Button).disabled = event.value.strip() != self._must_type

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._must_type:
            self.dismiss(True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


class LostScreen(Dialog[str]):
    """The engine is gone: why, what it last said, and what can be done. Dismissed with restart, look or quit."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "leave('restart')", "Restart", show=False, id="lost.restart"),
        Binding("escape", "leave('look')", "Look around", show=False, id="lost.look"),
        Binding("q,ctrl+c", "leave('quit')", "Quit", show=False, id="lost.quit"),
    ]

    def __init__(self, why: str, tail: tuple[str, ...], *, can_restart: bool, lost: str = "") -> None:
        super().__init__()
        self._why, self._tail, self._can_restart, self._lost = why, tail, can_restart, lost

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(self._why, id="question", markup=False)
            lost = f"Lost with it: {self._lost}." if self._lost else "No guest was lost with it."
            yield Static(f"{lost} What was on the screen is still here to look at.", id="loses", markup=False)
            if self._tail:
                yield Static("\n".join(self._tail), id="tail", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Look around (Esc)", id="look", compact=True)
                yield Button("Quit (q)", id="quit", compact=True)
                if self._can_restart:
                    yield Button("Start a new engine (r)", id="restart", variant="primary", compact=True)

    def on_mount(self) -> None:
        self.query_one("#dialog").border_title = "the engine is lost"
        self.query_one("#restart" if self._can_restart else "#look").focus()

    def action_leave(self, choice: str) -> None:
        if choice != "restart" or self._can_restart:
            self.dismiss(choice)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id or "look")


class TooSmallScreen(Dialog[None]):
    """Shown while the terminal is too small to draw anything worth reading."""

    CSS_PATH = "dialogs.tcss"

    def __init__(self, least: tuple[int, int]) -> None:
        super().__init__()
        self._least = least

    def compose(self) -> ComposeResult:
        yield Static(id="too-small", markup=False)

    def on_mount(self) -> None:
        self.tell()

    def on_resize(self) -> None:
        self.tell()

    def on_screen_resume(self) -> None:
        """A dialog that lay over it may have been there while the terminal grew."""
        if self.fits(self.app.size):
            self.call_later(self._leave)

    def _leave(self) -> None:
        self.dismiss(None)

    def fits(self, size: Size) -> bool:
        return size.width >= self._least[0] and size.height >= self._least[1]

    def tell(self) -> None:
        size = self.app.size
        text = f"xenconsole\n\nneeds {self._least[0]} x {self._least[1]}\nthis is {size.width} x {size.height}\n\nguests go on"
        self.query_one(Static).update(text)
