"""The lowest line: the keys that work now, as many as there is room for, help and quit among them always."""

from __future__ import annotations

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

LEAVE_FIRST = ("pause", "snapshot", "zoom", "domain", "filter", "console", "inspect", "tab")
"""What goes where there is little room, in this order: actions before ways, and what help tells of anyhow."""


def that_fit(words: list[tuple[str, str]], width: int) -> list[bool]:
    """Of keys and what they do: which are shown in a line of `width` cells. Each takes a space within, two
    behind it; the last two stand for the line's own margins."""
    shown = [True] * len(words)
    needed = [cell_len(key) + cell_len(text) + 3 for key, text in words]
    leaving = [at for name in LEAVE_FIRST for at, (_, text) in enumerate(words) if text == name]
    for at in leaving:
        if sum(size for size, on in zip(needed, shown, strict=True) if on) <= width:
            break
        shown[at] = False
    return shown


class KeyLine(Footer):
    """Textual's footer, which hides keys instead of cutting the line."""

    def compose(self) -> ComposeResult:
        keys = [key for key in super().compose() if isinstance(key, FooterKey)]
        self._fit(keys, self.app.size.width)
        yield from keys

    def on_resize(self, event: events.Resize) -> None:
        self._fit(list(self.query(FooterKey)), event.size.width)

    def _fit(self, keys: list[FooterKey], width: int) -> None:
        for key, shown in zip(keys, that_fit([(key.key_display, key.description) for key in keys], width), strict=True):
            key.display = shown
