"""The words of the control protocol: one tagged struct a message, MessagePack on the wire.

A client sends requests (each with an `id` of its own, answered by exactly one reply with the same `id`) and drives console
streams; the engine sends replies, coalesced notices, stream data and progress. Growth is by new fields with defaults and
by new messages; a change of meaning raises PROTOCOL_VERSION.
"""

from __future__ import annotations

import msgspec

from emulator.control.memoryviews import FrameView
from emulator.control.networkviews import NetworksView, PacketTail
from emulator.control.storageviews import DirectoryView, DiskBlockMap, FileChunk, StoragePoolView
from emulator.control.views import (
    ConsoleChunk,
    CrashView,
    DomainDetail,
    DomainView,
    Overview,
    SnapshotView,
    View,
)  # fmt: skip

PROTOCOL_VERSION = 1
MAGIC = "xenconsole"

Argument = bool | int | str
"""What a command's argument may be."""


class CommandResult(View, frozen=True):
    """What became of a command. `error` is one line for people, empty when `ok`."""

    ok: bool
    message: str = ""
    error: str = ""
    domid: int = -1
    snapshot: SnapshotView | None = None
    mistake: bool = False  # the user's own (a cfg that does not parse, a name that is taken); False with ok=False is ours


class ObituaryView(View, frozen=True):
    """What is kept of a domain that is gone. `restarted_as` is its successor's domid, -1 when there is none."""

    domain: DomainView
    reason: str = ""  # poweroff reboot crash suspend watchdog destroyed
    crash: CrashView | None = None
    restarted_as: int = -1


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t"):
    """Base of all messages."""


class Hello(Message, frozen=True, tag="hello"):
    """The first message of either side. Only this one is looked at before the versions are known to agree."""

    magic: str  # these three without defaults: what they are for is to be said
    protocol: int
    views: int
    role: str = ""  # "client" or "engine"
    version: str = ""  # xenconsole's own
    pid: int = 0
    cwd: str = ""  # relative paths in commands are relative to the engine's


class Goodbye(Message, frozen=True, tag="goodbye"):
    """The last message of either side; the reason is for people, empty for an ordinary farewell."""

    reason: str = ""


# --- client to engine -------------------------------------------------------------------------------------------------


class Request(Message, frozen=True):
    """Base of what is answered by one reply."""

    id: int


class GetOverview(Request, frozen=True, tag="overview?"):
    since_log: int = 0


class GetDetail(Request, frozen=True, tag="detail?"):
    domid: int = 0
    parts: tuple[str, ...] = ()
    since_trace: int = 0


class GetSnapshots(Request, frozen=True, tag="snapshots?"):
    domid: int = 0


class GetFrame(Request, frozen=True, tag="frame?"):
    domid: int = 0
    pfn: int = 0


class GetNetworks(Request, frozen=True, tag="networks?"):
    pass


class GetPackets(Request, frozen=True, tag="packets?"):
    """The last frames of a network; with `source` of one port of it, with `since` those after that sequence number."""

    network: str = ""
    source: str = ""
    since: int = 0
    most: int = 100


class GetObituary(Request, frozen=True, tag="obituary?"):
    domid: int = 0


class GetStorage(Request, frozen=True, tag="storage?"):
    """The pool; with `disk` one of the disks: its block map in `cells` pieces, or with `path` a directory, or a part of its bytes or of
    a file's. `what`: pool blocks directory bytes."""

    what: str = "pool"
    disk: str = ""
    path: str = ""
    cells: int = 4096
    offset: int = 0
    size: int = 0


class RunCommand(Request, frozen=True, tag="command?"):
    name: str = ""
    args: dict[str, Argument] = {}


class WriteConsole(Request, frozen=True, tag="write?"):
    domid: int = 0
    data: bytes = b""


class ReadConsole(Request, frozen=True, tag="read?"):
    domid: int = 0
    offset: int = 0
    limit: int = 65536


class Attach(Message, frozen=True, tag="attach"):
    """Open stream `stream` (a number of the client's choice): console output of a domain from `offset` on.

    The engine sends no more bytes than `credit` says. With `hold` the domain is paused while its reader is so far behind
    that output could be lost; without it a late reader sees a gap (chunk.offset beyond what it expected)."""

    stream: int
    domid: int
    offset: int = 0
    credit: int = 0
    hold: bool = False


class Credit(Message, frozen=True, tag="credit"):
    """The reader has room for `amount` bytes more."""

    stream: int
    amount: int


class Detach(Message, frozen=True, tag="detach"):
    """The reader is done; data already under way is dropped."""

    stream: int


# --- engine to client -------------------------------------------------------------------------------------------------


class Reply(Message, frozen=True):
    """Base of the answers."""

    id: int


class OverviewReply(Reply, frozen=True, tag="overview"):
    overview: Overview


class DetailReply(Reply, frozen=True, tag="detail"):
    detail: DomainDetail


class SnapshotsReply(Reply, frozen=True, tag="snapshots"):
    snapshots: tuple[SnapshotView, ...] = ()


class FrameReply(Reply, frozen=True, tag="frame"):
    frame: FrameView


class NetworksReply(Reply, frozen=True, tag="networks"):
    networks: NetworksView


class PacketsReply(Reply, frozen=True, tag="packets"):
    tail: PacketTail


class StorageReply(Reply, frozen=True, tag="storage"):
    """The one of these that was asked for."""

    pool: StoragePoolView | None = None
    blocks: DiskBlockMap | None = None
    directory: DirectoryView | None = None
    chunk: FileChunk | None = None


class ObituaryReply(Reply, frozen=True, tag="obituary"):
    obituary: ObituaryView | None = None


class CommandReply(Reply, frozen=True, tag="command"):
    result: CommandResult


class WriteReply(Reply, frozen=True, tag="write"):
    accepted: int = 0


class ReadReply(Reply, frozen=True, tag="read"):
    chunk: ConsoleChunk


class Refused(Reply, frozen=True, tag="refused"):
    """A request that could not be answered. `mistake` as in CommandResult."""

    error: str = ""
    mistake: bool = True


class Progress(Message, frozen=True, tag="progress"):
    """What the engine is doing for the request `id`, in a few words."""

    id: int
    text: str = ""


class Notices(Message, frozen=True, tag="notices"):
    """Things that happened, each once however often it did: (kind, domid); kind is console, state, gone, storage or log."""

    notices: tuple[tuple[str, int], ...] = ()


class StreamData(Message, frozen=True, tag="data"):
    stream: int
    chunk: ConsoleChunk


class StreamEnd(Message, frozen=True, tag="end"):
    """No more will come; `error` is empty when the domain is gone and all it said was sent."""

    stream: int
    error: str = ""


ViewRequest = GetOverview | GetDetail | GetSnapshots | GetFrame | GetNetworks | GetPackets | GetStorage | GetObituary
ClientRequest = ViewRequest | RunCommand | WriteConsole | ReadConsole
FromClient = Hello | Goodbye | ClientRequest | Attach | Credit | Detach
ViewReply = OverviewReply | DetailReply | SnapshotsReply | FrameReply | NetworksReply | PacketsReply | StorageReply | ObituaryReply
EngineReply = ViewReply | CommandReply | WriteReply | ReadReply | Refused
FromEngine = Hello | Goodbye | EngineReply | Progress | Notices | StreamData | StreamEnd
