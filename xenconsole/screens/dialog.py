"""The base of the app's dialogs: one that was answered takes no second answer, and what lies beneath it is drawn cheaply."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual._context import visible_screen_stack
from textual.await_complete import AwaitComplete
from textual.color import Color
from textual.geometry import Region
from textual.screen import ModalScreen
from textual.strip import Strip

Answer = TypeVar("Answer")


@lru_cache(maxsize=4096)
def _tinted(style: Style, tint: Color) -> Style:
    """A style under a veil, without links: what lies beneath a dialog takes no clicks."""

    def mix(color: RichColor | None) -> RichColor | None:
        return (Color.from_rich_color(color) + tint).rich_color if color is not None else None

    bare = style.clear_meta_and_links()
    return bare + Style.from_color(mix(style.color), mix(style.bgcolor)) if tint.a else bare


def _veiled(strip: Strip, tint: Color) -> Iterator[Segment]:
    for text, style, control in strip:
        yield Segment(text, _tinted(style or Style.null(), tint), control)


class Dialog(ModalScreen[Answer]):
    """A modal screen that is dismissed once, by whatever comes first: keys and clicks that were already on their way when it
    was answered would else be taken for the view beneath it, or end the app. One that is taken away without an answer
    answers None."""

    _answered = False

    def on_mount(self) -> None:
        self.app.clear_notifications()  # they would lie over what is asked here

    def dismiss(self, result: Answer | None = None) -> AwaitComplete:
        if self._answered or self.app.screen is not self:
            return AwaitComplete()
        self._answered = True
        return super().dismiss(result)

    def on_unmount(self) -> None:
        if not self._answered and self._result_callbacks:
            self._answered = True
            self._result_callbacks[-1](None)

    def render_lines(self, crop: Region) -> list[Strip]:
        """What Textual does by way of a renderable of the whole screen beneath, mixing colours anew for every piece of text: here line
        by line, each style mixed once. A key typed at the prompt over a full table costs a third of it."""
        tint = self.styles.background
        try:
            below = visible_screen_stack.get().pop()
        except LookupError:
            return super().render_lines(crop)
        if below is self or tint.a == 1:
            return super().render_lines(crop)
        strips = below._compositor.render_strips(self.size)
        return [Strip(_veiled(strip.crop(crop.x, crop.right), tint)) for strip in strips[crop.y : crop.bottom]]
