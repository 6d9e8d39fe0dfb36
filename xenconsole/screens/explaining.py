"""What every screen of panes does about explanations: the line at the bottom follows the pane that explains itself."""

from __future__ import annotations

from textual.screen import Screen

from xenconsole.widgets.domain_bar import ExplainBar
from xenconsole.widgets.pane import Pane


class ExplainingScreen(Screen[None]):
    """A screen with panes and an `ExplainBar`."""

    def on_pane_explain(self, message: Pane.Explain) -> None:
        self.query_one(ExplainBar).show(message.field)

    def stop_explaining(self) -> None:
        for pane in self.query(Pane):
            if pane.explaining:
                pane.stop_explaining()
        self.query_one(ExplainBar).show("")
