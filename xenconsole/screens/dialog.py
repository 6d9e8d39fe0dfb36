"""The base of the app's dialogs: one that was answered takes no second answer."""

from __future__ import annotations

from typing import TypeVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer]):
    """A modal screen that is dismissed once, by whatever comes first: keys and clicks that were already on their way when it
    was answered would else be taken for the view beneath it, or end the app. One that is taken away without an answer
    answers None."""

    _answered = False

    def dismiss(self, result: Answer | None = None) -> AwaitComplete:
        if self._answered or self.app.screen is not self:
            return AwaitComplete()
        self._answered = True
        return super().dismiss(result)

    def on_unmount(self) -> None:
        if not self._answered and self._result_callbacks:
            self._answered = True
            self._result_callbacks[-1](None)
