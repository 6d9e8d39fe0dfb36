"""The store on a Unix socket, for Domain-0's tools: `xenstore-ls` and its like with XENSTORED_PATH set to it (xs_lib.c).

One thread serves all clients in turn, a bounded piece of each at a time. A client that does not read its replies is not read from; one
that does not read its events, sends what is no message, or is one too many, is let go, and the log says why. Processes of other users
get nowhere.
"""

from __future__ import annotations

import os
import selectors
import shlex
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from emulator.dom0.xenstore.quotas import ClientBounds
from emulator.dom0.xenstore.server import Connection
from emulator.dom0.xenstore.socketpath import default_path
from emulator.dom0.xenstore.store import Store
from emulator.errors import UserError
from emulator.unixsocket import bind_private, is_own_user

MAX_CLIENTS: Final = 256
_SENT_AT_ONCE: Final = 64 * 1024
_ACCEPTED_AT_ONCE: Final = 16
_SAID_EVERY_S: Final = 1.0
_STOP_SECONDS: Final = 5.0
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _Client:
    """One connected tool."""

    def __init__(self, end: socket.socket, connection: Connection) -> None:
        self.end, self.connection = end, connection
        self.unsent = b""
        self.interest = _READ


class StoreSocket:
    """Serves from its making until `close`. `log(level, text)` is called from its thread. Raises UserError."""

    def __init__(self, store: Store, path: Path, log: Callable[[str, str], None], bounds: ClientBounds | None = None) -> None:
        self.path = path
        self._store, self._log, self._bounds = store, log, bounds or ClientBounds()
        self._listener = bind_private(path)
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._inode = path.lstat().st_ino
        self._clients: set[_Client] = set()
        self._ready: deque[_Client] = deque()  # clients whose connection has output made by others
        self._awake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = threading.Lock()
        self._stopping = False
        self._said_at, self._unsaid = 0.0, 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, _READ)
        self._selector.register(self._awake, _READ)
        self._thread = threading.Thread(target=self._serve, name="xenstored", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let all clients go and remove the socket; nothing of it is left."""
        self._stopping = True
        self._rouse()
        self._thread.join(_STOP_SECONDS)
        try:
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass  # somebody tidied up before us

    @property
    def clients(self) -> int:
        return len(self._clients)

    # --- the thread ------------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stopping:
                for key, events in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj == self._awake:
                        os.eventfd_read(self._awake)
                    elif key.data in self._clients:
                        self._attend(key.data, bool(events & _READ))
                for _ in range(len(self._ready)):
                    client = self._ready.popleft()
                    if client in self._clients:
                        self._attend(client, False)
        finally:
            for client in tuple(self._clients):
                self._drop(client)
            self._selector.close()
            self._listener.close()
            with self._closing:
                os.close(self._awake)
                self._awake = -1

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                end, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as bad:  # no descriptor is left, or the client has gone already
                self._say("warning", f"a client could not be let in: {bad.strerror or bad}")
                time.sleep(0.01)
                return
            if not is_own_user(end):
                self._refuse(end, "a process of another user was turned away")
            elif len(self._clients) >= MAX_CLIENTS:
                self._refuse(end, f"a client was turned away: {MAX_CLIENTS} are the most")
            else:
                self._admit(end)

    def _admit(self, end: socket.socket) -> None:
        end.setblocking(False)
        client = _Client(end, self._store.connect(0, self._bounds))
        client.connection.on_output = lambda: self._wake(client)
        self._clients.add(client)
        self._selector.register(end, _READ, client)

    def _refuse(self, end: socket.socket, why: str) -> None:
        end.close()
        self._say("warning", why)

    def _wake(self, client: _Client) -> None:
        """Events from elsewhere wait for a client. Any thread."""
        self._ready.append(client)
        self._rouse()

    def _rouse(self) -> None:
        with self._closing:
            if self._awake >= 0:
                os.eventfd_write(self._awake, 1)

    def _attend(self, client: _Client, readable: bool) -> None:
        """One piece of requests in, what there is to say out."""
        connection = client.connection
        try:
            if readable and (room := connection.room):
                data = client.end.recv(room)
                if not data:
                    self._drop(client)
                    return
                connection.feed(data)
            self._send(client)
        except BlockingIOError:
            pass
        except OSError:  # it is gone: there is nobody to tell
            self._drop(client)
            return
        if connection.broken:
            self._drop(client, connection.broken)
        elif connection.events_lost:
            self._drop(client, f"it does not read its events: {connection.events_lost} were lost")
        else:
            self._watch_for(client, (_READ if connection.room else 0) | (_WRITE if client.unsent or connection.pending else 0))

    def _send(self, client: _Client) -> None:
        client.unsent = client.unsent or client.connection.take(_SENT_AT_ONCE)
        while client.unsent:
            sent = client.end.send(client.unsent)
            client.unsent = client.unsent[sent:]
            if client.unsent:
                return
            if len(self._clients) > 1:
                return  # the next client's turn: the socket is writable still and brings us back
            client.unsent = client.connection.take(_SENT_AT_ONCE)

    def _watch_for(self, client: _Client, interest: int) -> None:
        if interest != client.interest:
            client.interest = interest
            self._selector.modify(client.end, interest, client)

    def _drop(self, client: _Client, why: str = "") -> None:
        self._clients.discard(client)
        self._selector.unregister(client.end)
        client.end.close()
        client.connection.on_output = None
        client.connection.close()
        if why:
            self._say("warning", f"a client was let go: {why}")

    def _say(self, level: str, text: str) -> None:
        """At most a line a second: a client that comes again and again fills no log."""
        now = time.monotonic()
        if now - self._said_at < _SAID_EVERY_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more like it before)" if self._unsaid else ""
        self._said_at, self._unsaid = now, 0
        self._log(level, f"xenstore socket: {text}{more}")


def open_socket(store: Store, path: Path, log: Callable[[str, str], None]) -> StoreSocket:
    """UserError for a path that will not do."""
    if len(os.fsencode(path)) > 107:
        raise UserError("the path of the xenstore socket is too long", where=str(path), why="a Unix socket's has 107 bytes at most")
    return StoreSocket(store, path, log)


def serve(store: Store, path: str, log: Callable[[str, str], None]) -> StoreSocket | None:
    """On `path`; "": on one of our own if that is possible; "off": not at all. The log says what XENSTORED_PATH is to be. UserError."""
    if path == "off":
        return None
    try:
        made = open_socket(store, Path(path).absolute() if path else default_path(), log)
    except (UserError, OSError) as bad:
        if path:
            raise
        log("warning", f"xenstore has no socket: {bad.line() if isinstance(bad, UserError) else bad.strerror or bad}")
        return None
    log("info", f"xenstore: export XENSTORED_PATH={shlex.quote(str(made.path))} for xenstore-ls and its like")
    return made
