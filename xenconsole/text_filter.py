"""A filter that narrows with every key: a regular expression, or plain text while it is none yet."""

from __future__ import annotations

import re


class TextFilter:
    """A regular expression in any case; a leading `!` inverts it. One that does not compile is taken as plain text, so that every
    keystroke on the way to it filters something."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._inverse = text.startswith("!")
        pattern = text.removeprefix("!")
        try:
            self._regex = re.compile(pattern, re.IGNORECASE)
        except re.error:
            self._regex = re.compile(re.escape(pattern), re.IGNORECASE)
        self._empty = not pattern

    @property
    def shown(self) -> str:
        """What a pane's title says of it."""
        return "" if self._empty else f"  /{self.text}"

    def matches(self, text: str) -> bool:
        """Whether a line of text passes."""
        return self._empty or (self._regex.search(text) is None) == self._inverse
