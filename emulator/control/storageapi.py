"""Both ends of what consoles ask of the storage pool: what the host has to offer, how the engine answers, and the client's calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from emulator.control.messages import GetStorage, Message, StorageReply
from emulator.control.storageviews import DirectoryView, DiskBlockMap, DiskView, FileChunk, StoragePoolView
from emulator.errors import UserError


class StorageApi(Protocol):
    """See hoststorage.HostStorage. All calls may wait for a disk and raise UserError."""

    def create(self, name: str, size: str) -> DiskView: ...
    def clone(self, source: str, name: str) -> DiskView: ...
    def remove(self, name: str) -> None: ...
    def disk(self, name: str) -> DiskView: ...
    def pool(self) -> StoragePoolView: ...
    def block_map(self, name: str, cells: int) -> DiskBlockMap: ...
    def directory(self, name: str, path: str) -> DirectoryView: ...
    def read(self, name: str, offset: int, size: int, path: str) -> FileChunk: ...


def answer(storage: StorageApi, request: GetStorage) -> StorageReply:
    """The engine's end. Raises UserError."""
    number, disk = request.id, request.disk
    if request.what == "pool":
        return StorageReply(id=number, pool=storage.pool())
    if request.what == "blocks":
        return StorageReply(id=number, blocks=storage.block_map(disk, request.cells))
    if request.what == "directory":
        return StorageReply(id=number, directory=storage.directory(disk, request.path))
    if request.what == "bytes":
        return StorageReply(id=number, chunk=storage.read(disk, request.offset, request.size, request.path))
    raise UserError(f"nothing called {request.what[:64]!r} in the storage pool", fix="known: pool, blocks, directory, bytes")


class StorageClient:
    """The client's end: EngineClient.storage. Raises UserError for what is not there, ConnectionError when the engine is lost."""

    def __init__(self, ask: Callable[[GetStorage], Awaitable[Message]], next_id: Callable[[], int]) -> None:
        self._ask, self._next_id = ask, next_id

    async def pool(self) -> StoragePoolView:
        """Every disk: the pool's, and those that domains have from elsewhere."""
        reply = await self._ask(GetStorage(id=self._next_id()))
        assert isinstance(reply, StorageReply) and reply.pool is not None
        return reply.pool

    async def block_map(self, disk: str, cells: int = 4096) -> DiskBlockMap:
        """What a disk is made of, in at most `cells` equal pieces."""
        reply = await self._ask(GetStorage(id=self._next_id(), what="blocks", disk=disk, cells=cells))
        assert isinstance(reply, StorageReply) and reply.blocks is not None
        return reply.blocks

    async def directory(self, disk: str, path: str = "/") -> DirectoryView:
        """Partitions or a directory, by the names that an earlier view gave."""
        reply = await self._ask(GetStorage(id=self._next_id(), what="directory", disk=disk, path=path))
        assert isinstance(reply, StorageReply) and reply.directory is not None
        return reply.directory

    async def read(self, disk: str, offset: int, size: int, path: str = "") -> FileChunk:
        """At most 1 MiB of a disk, or of the file at `path` on it."""
        reply = await self._ask(GetStorage(id=self._next_id(), what="bytes", disk=disk, offset=offset, size=size, path=path))
        assert isinstance(reply, StorageReply) and reply.chunk is not None
        return reply.chunk
