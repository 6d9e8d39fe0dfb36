"""Clients that misbehave on the store's socket: each is throttled or let go alone, and nothing of it is kept."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.dom0.xenstore import Store, wire
from emulator.dom0.xenstore.quotas import ClientBounds
from emulator.dom0.xenstore.socket import MAX_CLIENTS, StoreSocket, open_socket
from emulator.dom0.xenstore.socketpath import default_path
from emulator.errors import UserError
from tests.patience import PATIENCE_SECONDS, until
from tests.unit.xenstore_client import Message, introduced, parse

BOUNDS = ClientBounds(watches=20, transactions=5, nodes=500, memory=100_000)


class Wire:
    """A client that writes bytes as it likes."""

    def __init__(self, path: Path) -> None:
        self.end = socket.socket(socket.AF_UNIX)
        self.end.connect(str(path))
        self.end.settimeout(PATIENCE_SECONDS)

    def ask(self, kind: int, payload: bytes, tx: int = 0) -> Message:
        self.end.sendall(wire.message(kind, 7, tx, payload))
        return self.reply()

    def reply(self) -> Message:
        head = self._exactly(16)
        (message,) = parse(head + self._exactly(wire.HEADER.unpack(head)[3]))
        return message

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.end.recv(size - len(data))
            assert piece, "the connection ended"
            data += piece
        return data

    def ended(self) -> bool:
        """Whether the other end hangs up, what it had said before read."""
        try:
            while self.end.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


class Host:
    def __init__(self, folder: Path) -> None:
        self.store, self.said = Store(), list[tuple[str, str]]()
        introduced(self.store, 1)
        self.before = len(self.store.connections)
        self.socket = StoreSocket(self.store, folder / "socket", lambda level, text: self.said.append((level, text)), BOUNDS)
        self.wires: list[Wire] = []

    def client(self) -> Wire:
        self.wires.append(Wire(self.socket.path))
        return self.wires[-1]

    def until(self, reached: Callable[[], bool]) -> None:
        until(reached)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    for one in made.wires:
        one.end.close()
    made.until(lambda: not made.socket.clients)
    made.socket.close()
    assert len(made.store.connections) == made.before, "a client left something behind"


def name(client: Wire) -> bytes:
    return client.ask(wire.XS_READ, b"/local/domain/1/name\0").payload


def test_a_thousand_connections_do_not_keep_another_client_waiting(host: Host) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    before = host.client()
    assert name(before) == b"guest"
    crowd = [host.client() for _ in range(1000)]
    host.until(lambda: host.socket.clients == MAX_CLIENTS)
    assert name(before) == b"guest", "while a thousand hold on"
    assert crowd[-1].ended()
    assert any("256 are the most" in text for _, text in host.said) and len(host.said) < 20
    for one in crowd:
        one.end.close()
    host.until(lambda: host.socket.clients == 1)
    assert name(host.client()) == b"guest"


def test_half_a_message_holds_up_its_client_alone(host: Host) -> None:
    slow, other = host.client(), host.client()
    request = wire.message(wire.XS_READ, 1, 0, b"/local/domain/1/name\0")
    for at in range(len(request) - 1):
        slow.end.sendall(request[at : at + 1])
        if at % 9 == 0:
            assert name(other) == b"guest"
    slow.end.sendall(request[-1:])
    assert slow.reply().payload == b"guest"


def test_an_oversize_payload_ends_that_connection(host: Host) -> None:
    bad, other = host.client(), host.client()
    bad.end.sendall(wire.HEADER.pack(wire.XS_WRITE, 1, 0, 4097) + bytes(4097))
    assert bad.ended()
    assert name(other) == b"guest"
    assert any("announced 4097 bytes" in text for _, text in host.said)


def test_a_client_that_reads_no_reply_is_not_listened_to(host: Host) -> None:
    deaf, other = host.client(), host.client()
    deaf.end.settimeout(0.3)
    request = wire.message(wire.XS_DIRECTORY, 1, 0, b"/local/domain/1\0")
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 << 20:
            sent += deaf.end.send(request * 1000)
    assert sent < 8 << 20
    for _ in range(20):
        assert name(other) == b"guest"
    assert max(connection.account().bytes for connection in host.store.connections.values()) < 1 << 20
    deaf.end.settimeout(PATIENCE_SECONDS)
    assert deaf.reply().payload.startswith(b"name\0")


def test_a_client_that_reads_no_event_is_let_go(host: Host) -> None:
    deaf, other = host.client(), host.client()
    for number in range(20):
        assert deaf.ask(wire.XS_WATCH, b"/flood\0" + b"t" * 3000 + b"%d\0" % number).payload == b"OK\0"
        deaf.reply()
    for number in range(400):
        assert other.ask(wire.XS_WRITE, b"/flood/%d\0" % number).kind == wire.XS_WRITE
    assert deaf.ended()
    host.until(lambda: host.socket.clients == 1)
    assert any("does not read its events" in text for _, text in host.said)
    assert name(other) == b"guest"


def test_watches_transactions_and_nodes_are_bounded(host: Host) -> None:
    greedy = host.client()
    answers = [greedy.ask(wire.XS_TRANSACTION_START, b"\0").kind for _ in range(6)]
    assert answers == [wire.XS_TRANSACTION_START] * 5 + [wire.XS_ERROR]
    for number in range(20):
        assert greedy.ask(wire.XS_WATCH, b"/x\0%d\0" % number).payload == b"OK\0"
        assert greedy.reply().kind == wire.XS_WATCH_EVENT
    assert greedy.ask(wire.XS_WATCH, b"/x\0more\0").payload == b"E2BIG\0"
    made = 0
    while (answer := greedy.ask(wire.XS_MKDIR, b"/many/%d\0" % made)).kind == wire.XS_MKDIR:
        made += 1
    assert answer.payload == b"ENOSPC\0" and 400 < made < 500
    host.store.write("/the/toolstack", "still may")
    greedy.ask(wire.XS_RM, b"/many\0")
    while (answer := greedy.ask(wire.XS_WRITE, b"/big/%d\0" % made + bytes(4000))).kind == wire.XS_WRITE:
        made += 1
    assert answer.payload == b"ENOSPC\0"


def test_a_flood_of_requests_leaves_room_for_others(host: Host) -> None:
    """Which never ends while they ask."""
    flood, other = host.client(), host.client()
    requests = memoryview(wire.message(wire.XS_WRITE, 1, 0, b"/flood\0" + b"x" * 100) * 200)
    flood.end.setblocking(False)
    done, heard = threading.Event(), 0

    def go_on() -> None:
        nonlocal heard
        rest = requests
        while not done.is_set():
            readable, writable, _ = select.select([flood.end], [flood.end], [], 0.1)
            if writable:
                rest = rest[flood.end.send(rest) :] or requests
            if readable:
                heard += len(flood.end.recv(1 << 20))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        host.until(lambda: heard > 100)
        for _ in range(50):
            so_far = heard
            assert name(other) == b"guest"
            host.until(lambda so_far=so_far: heard > so_far)  # type: ignore[misc]
    finally:
        done.set()
        thread.join()


def test_a_link_and_a_file_are_not_replaced_and_a_dead_socket_is(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "socket"
    victim.write_text("precious")
    path.symlink_to(victim)
    for _ in range(2):
        with pytest.raises(UserError, match="cannot listen"):
            open_socket(Store(), path, lambda level, text: None)
        path.unlink()
        path.write_text("a file")
    path.unlink()
    assert victim.read_text() == "precious"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    live = open_socket(Store(), path, lambda level, text: None)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="in use"):
        open_socket(Store(), path, lambda level, text: None)
    live.close()
    assert not path.exists()
    with pytest.raises(UserError, match="too long"):
        open_socket(Store(), tmp_path / ("x" * 120), lambda level, text: None)


def test_the_folder_is_ours_alone_and_swept_of_dead_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, temporary = tmp_path / "run", tmp_path / "tmp"
    runtime.mkdir(mode=0o700)
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    path = default_path()
    assert path == runtime / "xenconsole" / f"xenstored-{os.getpid()}.sock" and path.parent.stat().st_mode & 0o777 == 0o700
    dead = path.with_name("xenstored-4194399.sock")
    end = socket.socket(socket.AF_UNIX)
    end.bind(str(dead))
    end.close()
    assert default_path() == path and not dead.exists()

    path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (runtime / "xenconsole").symlink_to(tmp_path / "elsewhere")  # not followed
    fallback = temporary / f"xenconsole-{os.getuid()}"
    assert default_path().parent == fallback
    fallback.chmod(0o777)
    assert default_path().parent not in (fallback, runtime / "xenconsole")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    fallback.chmod(0o700)
    assert default_path().parent == fallback
