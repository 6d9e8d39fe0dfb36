"""All screens and widgets with keys of their own, for the check of a user's key map."""

from __future__ import annotations

from textual.dom import DOMNode

from xenconsole.screens.confirm import ConfirmScreen, LostScreen
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.help import HelpScreen
from xenconsole.screens.host import HostScreen
from xenconsole.screens.networks import NetworksScreen
from xenconsole.screens.prompt import PromptScreen
from xenconsole.widgets.disk_panes import DiskMap, FilesPane, HexPane
from xenconsole.widgets.domain_table import DomainTable
from xenconsole.widgets.link_matrix import LinkMatrix
from xenconsole.widgets.log_view import LogView
from xenconsole.widgets.memory_map import MemoryMap
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.snapshots_panel import SnapshotList

REMAPPABLE: tuple[type[DOMNode], ...] = (
    DomainTable,
    LogView,
    DomainScreen,
    HostScreen,
    LinkMatrix,
    NetworksScreen,
    Pane,
    MemoryMap,
    DiskMap,
    FilesPane,
    HexPane,
    ConsoleScreen,
    SnapshotList,
    ConfirmScreen,
    LostScreen,
    PromptScreen,
    HelpScreen,
)
