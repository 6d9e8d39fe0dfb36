"""The storage pool: every disk under its base, who has it, what it is made of, the files on it and its bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from emulator.errors import UserError
from xenconsole.app_protocol import Client, EngineNotice
from xenconsole.screens.host import HostScreen
from xenconsole.screens.prompt import PromptScreen
from xenconsole.units import offset_of
from xenconsole.widgets.disk_list import DiskList
from xenconsole.widgets.disk_panes import DiskMap, FilesPane, HexPane
from xenconsole.widgets.pane import ListPane

SETTLED_SECONDS = 2.0
"""A disk that was written to so lately may be so again within its file's clock tick: it is asked for anew."""
STALE_SECONDS = 10.0
"""And anew after so long: the map of a disk that was trimmed or went back in time may change before its file does."""


class StorageScreen(HostScreen):
    """See HostScreen. What is shown of a disk is asked for once, and again when the disk was written to."""

    AUTO_FOCUS = "#disks"
    period_s = 1.0

    def __init__(self, client: Client, *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(client, hertz=hertz, clock=clock)
        self._disk = self._path = self._file = ""
        self._shown: dict[str, tuple[object, ...]] = {}  # by pane: what was asked last, of the disk as it was then
        self._asked_at = 0.0

    def compose_panes(self) -> ComposeResult:
        yield DiskList(id="disks")
        with Horizontal(classes="row", id="storage-row"):
            yield DiskMap(id="disk-map")
            with Vertical(classes="column", id="storage-side"):
                yield FilesPane(id="files")
                yield HexPane(id="hex")

    @property
    def domid(self) -> int:
        """The first domain that has the chosen disk: what keys that act on a domain are for."""
        disk = self.query_one(DiskList).chosen
        return disk.uses[0].domid if disk is not None and disk.uses else -1

    async def fetch(self) -> None:
        pool = await self.client.storage.pool()
        disks, chart = self.query_one(DiskList), self.query_one(DiskMap)
        disks.show(pool)
        disk = disks.chosen
        if disk is None or disk.name != self._disk:
            self._disk, self._path, self._file = disk.name if disk is not None else "", "/", ""
            self.query_one(HexPane).offset_wanted = 0
        if disk is None:
            chart.show(None, None)
            self.query_one(FilesPane).show(None)
            self.query_one(HexPane).show(None)
            return
        chart.show(disk, chart.view)
        state = disk.name, disk.size, disk.held, disk.changed_unix
        if abs(time.time() - disk.changed_unix) < SETTLED_SECONDS or self.clock() - self._asked_at >= STALE_SECONDS:
            self._shown, self._asked_at = {}, self.clock()
        if not disk.trouble and self._news("map", *state, chart.cells):
            chart.show(disk, await self.client.storage.block_map(disk.name, chart.cells))
        await self._fetch_directory(state)
        await self._fetch_bytes(state)

    def _news(self, pane: str, *asked: object) -> bool:
        """Whether a pane is to be asked for: another thing, or the disk was written to since."""
        if self._shown.get(pane) == asked:
            return False
        self._shown[pane] = asked
        return True

    async def _fetch_directory(self, state: tuple[object, ...]) -> None:
        files = self.query_one(FilesPane)
        if not self._news("files", *state, self._path):
            return
        try:
            files.show(await self.client.storage.directory(self._disk, self._path))
        except UserError as error:
            files.show(None, str(error))
            self._path = "/"

    async def _fetch_bytes(self, state: tuple[object, ...]) -> None:
        pane = self.query_one(HexPane)
        if not self._news("bytes", *state, self._file, pane.offset_wanted, pane.wanted):
            return
        try:
            pane.show(await self.client.storage.read(self._disk, pane.offset_wanted, pane.wanted, self._file))
        except UserError as error:
            pane.show(None, str(error))

    def on_list_pane_chosen(self, message: ListPane.Chosen) -> None:
        if isinstance(message.pane, DiskList):
            self.pull_soon()

    def on_files_pane_asked(self, message: FilesPane.Asked) -> None:
        if message.directory:
            self._path = message.path
        else:
            self._file = message.path
            self.query_one(HexPane).offset_wanted = 0
        self.pull_soon()

    def on_disk_map_picked(self, message: DiskMap.Picked) -> None:
        self._file = ""
        self.query_one(HexPane).offset_wanted = message.offset
        self.pull_soon()

    def on_hex_pane_offset_asked(self, message: HexPane.OffsetAsked) -> None:
        pane = self.query_one(HexPane)
        end = pane.chunk.size if pane.chunk is not None else 0

        def wrong(text: str) -> str:
            offset = offset_of(text)
            if not text or 0 <= offset < end:
                return ""
            return f"the last byte is at {end - 1:#x}" if offset >= 0 else "a number of bytes, as 0x1c00, 7168 or 7k"

        def go(text: str | None) -> None:
            if text and not wrong(text):
                pane.move_to(offset_of(text))
            elif text:
                self.app.notify(wrong(text), severity="warning", markup=False)

        self.app.push_screen(PromptScreen("offset ", hint=lambda _: f"bytes from the start, as 0x1c00, 7168 or 7k; below {end:#x}", watch=wrong), go)

    def on_hex_pane_moved(self, message: HexPane.Moved) -> None:
        self.pull_soon()

    def on_engine_notice(self, message: EngineNotice) -> None:
        if message.kind == "storage":
            self.pull_soon()

    def open_target(self) -> tuple[int, str]:
        return self.domid, "rings"
