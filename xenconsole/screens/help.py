"""Help made from the live bindings: the keys that work on the screen below right now, then every command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from xenconsole.commands import COMMANDS, GROUPS, find_command
from xenconsole.screens.dialog import Dialog

KeyLine = tuple[str, str, str]
"""(group, key as shown, what it does)."""


def group_of(name: str) -> str:
    """The help group of a binding by its ID: a command's group, else `moving` for a widget's own keys."""
    command = find_command(name)
    if command is not None:
        return command.group
    return "consoles from anywhere" if name.startswith("to-console") else "moving and marking"


class HelpScreen(Dialog[None]):
    """Takes the keys as they are bound on the screen it is opened over."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter,ctrl+c", "leave", "Close", show=False, id="help.close"),
        Binding("j,down", "scroll(1)", show=False, id="help.down"),
        Binding("k,up", "scroll(-1)", show=False, id="help.up"),
        Binding("space,pagedown", "scroll(10)", show=False, id="help.page-down"),
        Binding("pageup", "scroll(-10)", show=False, id="help.page-up"),
    ]

    def __init__(self, keys: Iterable[KeyLine]) -> None:
        super().__init__()
        self._keys = list(keys)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "help"
            box.border_subtitle = "Esc closes"
            yield Static(id="text")

    def on_mount(self) -> None:
        self._fill()

    def on_resize(self) -> None:
        self._fill()

    def _fill(self) -> None:
        width = min(self.app.size.width * 96 // 100, 110) - 8
        self.query_one("#text", Static).update(self._page(2 if width >= 84 else 1))

    def _page(self, columns: int) -> Table:
        variables = self.app.theme_variables
        key_style, dim, head = variables["primary"], variables["dim"], f"bold {variables['mark']}"
        if self.app.current_theme.ansi:
            key_style, dim, head = "cyan", "bright_black", "bold magenta"
        blocks: list[Table] = []
        seen: dict[str, list[tuple[str, str]]] = {}
        for group, key, text in self._keys:
            seen.setdefault(group, []).append((key, text))
        for group in sorted(seen, key=lambda g: (GROUPS.index(g) if g in GROUPS else len(GROUPS), g)):
            block = Table.grid(padding=(0, 2))
            block.add_column(justify="right", style=key_style, no_wrap=True, min_width=10)
            block.add_column()
            block.add_row(Text(group, head), "")
            for key, text in seen[group]:
                block.add_row(key, text)
            block.add_row("", "")
            blocks.append(block)
        typed = Table.grid()
        typed.add_row(Text("typed after :", head))
        for command in COMMANDS:
            if command.typed:
                also = f", also {', '.join(command.aliases)}" if command.aliases else ""
                typed.add_row(Text(command.usage, key_style))
                typed.add_row(Padding(Text(command.help + also, dim), (0, 0, 0, 2)))
        page = Table.grid(padding=(0, 4))
        left = Group(*blocks)
        if columns == 2:
            page.add_column(ratio=1)
            page.add_column(ratio=1)
            page.add_row(left, typed)
        else:
            page.add_row(Group(left, typed))
        return page

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_scroll(self, by: int) -> None:
        self.query_one("#help").scroll_relative(y=by, animate=False)
