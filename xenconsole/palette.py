"""The palette: Textual's own command palette over our one table of commands, for the chosen domain and for every domain."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.await_complete import AwaitComplete
from textual.command import Command, CommandList, CommandPalette, DiscoveryHit, Hit, Hits, Provider

from xenconsole.commands import COMMANDS
from xenconsole.units import printable

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp


class CommandProvider(Provider):
    """One entry a command (on the chosen domain where it takes one), and console and inspect of every domain."""

    def _entries(self) -> Iterator[tuple[str, str, str]]:
        """(text, the line it stands for, help)."""
        shell = cast("ConsoleApp", self.app)
        names = {view.domid: printable(view.name) for view in shell.overview.domains}
        chosen = shell.chosen
        for command in COMMANDS:
            needed = [a for a in command.arguments if not a.optional]
            if not command.typed or (command.engine and command.on_domain and chosen == 0):
                continue
            if command.on_domain and chosen in names:
                if needed:
                    yield f"{command.name} {names[chosen]} …", f"{command.name} {chosen} ", command.help
                else:
                    yield f"{command.name} {names[chosen]}", f"{command.name} {chosen}", command.help
            elif not command.on_domain:
                yield ((f"{command.name} …", f"{command.name} ", command.help) if needed else (command.name, command.name, command.help))
        for domid, name in names.items():
            for verb in ("console", "inspect"):
                if domid != chosen and (domid or verb == "inspect"):
                    yield f"{verb} {name}", f"{verb} {domid}", f"domain {domid}"

    async def discover(self) -> Hits:
        for text, line, about in self._entries():
            yield DiscoveryHit(text, partial(cast("ConsoleApp", self.app).take_line, line), help=about)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for text, line, about in self._entries():
            score = max(matcher.match(text), matcher.match(about) * 0.8)
            if score > 0:
                yield Hit(score, matcher.highlight(text), partial(cast("ConsoleApp", self.app).take_line, line), help=about)


class Palette(CommandPalette):
    """Textual's palette, which may be taken down at any moment: what it still finds then, and a second answer, mean nothing."""

    _answered = False

    def _refresh_command_list(self, command_list: CommandList, commands: list[Command], clear_current: bool) -> None:
        if command_list.is_attached:
            super()._refresh_command_list(command_list, commands, clear_current)

    def dismiss(self, result: None = None) -> AwaitComplete:
        if self._answered or self.app.screen is not self:
            return AwaitComplete()
        self._answered = True
        return super().dismiss(result)


def palette() -> Palette:
    return Palette(providers=[CommandProvider], placeholder="find a command…", id="palette")
