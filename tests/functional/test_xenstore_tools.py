"""The store on its Unix socket, as others' clients see it: Debian's xenstore-* tools, Xen's own library, PyPI's pyxs."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_uint, c_void_p
from pathlib import Path

import pytest
import pyxs

from emulator.dom0.xenstore import Perm, Store, wire
from emulator.dom0.xenstore.socket import StoreSocket
from tests.patience import PATIENCE_SECONDS, read_until
from tests.unit.xenstore_client import Client, introduced

TOOLS = ("ls", "read", "write", "watch", "chmod", "list", "rm", "exists")
needs_tools = pytest.mark.skipif(any(shutil.which(f"xenstore-{tool}") is None for tool in TOOLS),
                                 reason="no xenstore-ls and its like (Debian: apt install xenstore-utils)")  # fmt: skip


class Served:
    """A store with domain 3 in it, on a socket."""

    def __init__(self, folder: Path) -> None:
        self.store, self.said = Store(), list[str]()
        self.store.log = self.said.append
        self.guest: Client = introduced(self.store, 3, "web")
        self.socket = StoreSocket(self.store, folder / "socket", lambda level, text: self.said.append(text))
        self.environment = {**os.environ, "XENSTORED_PATH": str(self.socket.path)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    def say(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.socket.close()
    assert not made.socket.path.exists()


@needs_tools
def test_ls_shows_the_whole_tree_with_its_permissions(served: Served) -> None:
    shown = served.say("xenstore-ls", "-f", "-p").splitlines()
    expected = [f'{path} = "{value}"' for path, value in served.store.subtree("/") if path != "/"]
    assert [line.partition("   (")[0] for line in shown] == expected
    assert '/local/domain/3/name = "web"   (n0,r3)' in shown
    assert '/local/domain/3/control/shutdown = ""   (n3)' in shown


@needs_tools
def test_a_directory_too_wide_for_one_message_is_listed_whole(served: Served) -> None:
    for number in range(1500):
        served.store.write(f"/wide/{number:05d}", "")
    assert served.say("xenstore-list", "/wide").split() == [f"{number:05d}" for number in range(1500)]


@needs_tools
def test_write_read_chmod_exists_rm(served: Served) -> None:
    served.say("xenstore-write", "/tool/a", "one", "/tool/b", "two words")
    assert served.say("xenstore-read", "/tool/a", "/tool/b") == "one\ntwo words\n"
    served.say("xenstore-chmod", "/tool/a", "n0", "r3")
    assert served.store.permissions("/tool/a") == (Perm(0, 0), Perm(3, 1))
    assert served.guest.read("/tool/a") == b"one"
    assert served.guest.read("/tool/b") == b"!EACCES"
    assert served.run("xenstore-exists", "/tool/a").returncode == 0
    served.say("xenstore-rm", "/tool/a")
    assert served.run("xenstore-exists", "/tool/a").returncode == 1
    missing = served.run("xenstore-read", "/tool/a")
    assert (missing.returncode, missing.stdout) == (1, "") and "couldn't read path /tool/a" in missing.stderr


@needs_tools
def test_watch_hears_what_a_guest_writes_and_that_domains_come_and_go(served: Served) -> None:
    watcher = subprocess.Popen(["stdbuf", "-oL", "xenstore-watch", "-n", "6", "/local/domain/3/data", "@introduceDomain", "@releaseDomain"],
                               env=served.environment, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert watcher.stdout is not None
    try:
        first = [watcher.stdout.readline().strip() for _ in range(3)]
        assert first == ["/local/domain/3/data", "@introduceDomain", "@releaseDomain"]
        assert served.guest.write("data/load", "0.5") == b"OK\0"
        other = introduced(served.store, 4)
        served.store.release(4)
        assert other.connection.broken
        rest, _ = watcher.communicate(timeout=PATIENCE_SECONDS)
        assert rest.split() == ["/local/domain/3/data/load", "@introduceDomain", "@releaseDomain"]
        assert watcher.returncode == 0
    finally:
        watcher.kill()


@contextmanager
def client_of(served: Served) -> Iterator[pyxs.Client]:
    with pyxs.Client(unix_socket_path=str(served.socket.path)) as client:
        yield client


def test_pyxs_reads_writes_lists_and_asks_about_domains(served: Served) -> None:
    with client_of(served) as client:
        assert client.read(b"/local/domain/3/name") == b"web"
        assert client.list(b"/local/domain") == [b"0", b"3"]
        assert client.get_domain_path(3) == b"/local/domain/3"
        assert (client.is_domain_introduced(3), client.is_domain_introduced(4)) == (True, False)
        client.write(b"/tool/x", b"x" * 3000)
        assert client.read(b"/tool/x") == b"x" * 3000
        client.set_perms(b"/tool/x", [b"b0", b"r3"])
        assert client.get_perms(b"/tool/x") == [b"b0", b"r3"]
        client.delete(b"/tool/x")
        assert not client.exists(b"/tool/x")
        with pytest.raises(pyxs.PyXSError):
            client.read(b"/tool/x")


def test_pyxs_transactions_conflict_and_commit(served: Served) -> None:
    with client_of(served) as client:
        client.transaction()
        client.write(b"/tool/count", b"1")
        assert served.store.read("/tool/count") is None
        assert client.commit()
        client.transaction()
        client.write(b"/tool/count", client.read(b"/tool/count") + b"1")
        served.store.write("/tool/count", "7")
        assert not client.commit()
        client.transaction()
        client.delete(b"/tool/count")
        client.rollback()
        assert served.store.read("/tool/count") == "7"


def test_pyxs_monitors(served: Served) -> None:
    with client_of(served) as client, client.monitor() as monitor:
        monitor.watch(b"/local/domain/3/data", b"a token")
        events = monitor.wait()
        assert next(events) == (b"/local/domain/3/data", b"a token")
        later = threading.Timer(0.05, lambda: served.guest.write("data/x", "1"))
        later.start()
        assert next(events) == (b"/local/domain/3/data/x", b"a token")
        later.join()
        monitor.unwatch(b"/local/domain/3/data", b"a token")


class Library:
    """Xen's libxenstore, by ctypes."""

    def __init__(self, path: str) -> None:
        self.lib = ctypes.CDLL("libxenstore.so.4", use_errno=True)
        signatures = {
            "xs_open": (c_void_p, [ctypes.c_ulong]), "xs_close": (None, [c_void_p]), "xs_get_domain_path": (c_void_p, [c_void_p, c_uint]),
            "xs_introduce_domain": (c_bool, [c_void_p, c_uint, ctypes.c_ulong, c_uint]), "xs_release_domain": (c_bool, [c_void_p, c_uint]),
            "xs_resume_domain": (c_bool, [c_void_p, c_uint]), "xs_set_target": (c_bool, [c_void_p, c_uint, c_uint]),
            "xs_is_domain_introduced": (c_bool, [c_void_p, c_uint]),
            "xs_control_command": (c_void_p, [c_void_p, c_char_p, c_void_p, c_uint]),
            "xs_directory": (POINTER(c_char_p), [c_void_p, c_uint, c_char_p, POINTER(c_uint)]),
        }  # fmt: skip
        for name, (result, arguments) in signatures.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        before, libc = os.environ.get("XENSTORED_PATH"), ctypes.CDLL(None)
        libc.setenv(b"XENSTORED_PATH", path.encode(), 1)
        self.handle = self.lib.xs_open(0)
        if before is None:
            libc.unsetenv(b"XENSTORED_PATH")
        else:
            libc.setenv(b"XENSTORED_PATH", os.fsencode(before), 1)
        assert self.handle, os.strerror(ctypes.get_errno())

    def ask(self, name: str, *arguments: object) -> bool:
        return bool(getattr(self.lib, name)(self.handle, *arguments))

    def error(self, name: str, *arguments: object) -> str:
        assert not self.ask(name, *arguments)
        return os.strerror(ctypes.get_errno())

    def control(self, *words: str) -> str:
        """What xenstore-control would print; an error's words."""
        data = b"".join(word.encode() + b"\0" for word in words[1:])
        found = self.lib.xs_control_command(self.handle, words[0].encode(), data, len(data))
        return ctypes.string_at(found).decode() if found else os.strerror(ctypes.get_errno())

    def close(self) -> None:
        self.lib.xs_close(self.handle)


@pytest.fixture
def library(served: Served) -> Iterator[Library]:
    try:
        made = Library(str(served.socket.path))
    except OSError as missing:
        pytest.skip(f"{missing} (Debian: apt install libxenstore4)")
    yield made
    made.close()


def test_xens_library_releases_introduces_and_resumes_a_domain(served: Served, library: Library) -> None:
    tool = Client(served.store.connect(0))
    tool.ask(wire.XS_WATCH, "@introduceDomain", "in")
    tool.ask(wire.XS_WATCH, "@releaseDomain", "out")
    tool.heard()
    assert library.ask("xs_is_domain_introduced", 3) and not library.ask("xs_is_domain_introduced", 5)
    assert served.guest.write("data/mine", "1") == b"OK\0"
    assert library.ask("xs_release_domain", 3)
    assert tool.heard() == [("@releaseDomain", "out")]
    assert served.guest.connection.released and not library.ask("xs_is_domain_introduced", 3)
    assert served.store.read("/local/domain/3/data") is None, "what it owned is gone"
    assert served.store.read("/local/domain/3/name") == "web", "the toolstack's nodes are the toolstack's"
    assert library.error("xs_release_domain", 3) == "No such file or directory"
    assert library.error("xs_resume_domain", 3) == "No such file or directory"
    assert library.error("xs_introduce_domain", 77, 1, 2) == "Invalid argument"
    assert library.error("xs_introduce_domain", 3, 1, 0) == "Invalid argument"
    assert library.ask("xs_introduce_domain", 3, 1, 2)
    assert tool.heard() == [("@introduceDomain", "in")]
    assert served.guest.read("name") == b"!EACCES", "what it was allowed went with it, for whoever gets its number next"
    assert served.guest.ask(wire.XS_GET_DOMAIN_PATH, "3") == b"/local/domain/3\0"
    assert library.ask("xs_introduce_domain", 3, 1, 2) and tool.heard() == []
    served.store.shut_down(3)
    served.store.shut_down(3)
    assert tool.heard() == [("@releaseDomain", "out")], "a shutdown is told once"
    assert library.ask("xs_resume_domain", 3)
    served.store.shut_down(3)
    assert tool.heard() == [("@releaseDomain", "out")]


def test_xens_library_sets_a_target(served: Served, library: Library) -> None:
    model = introduced(served.store, 8)
    assert served.guest.write("data/secret", "s") == b"OK\0"
    assert model.read("/local/domain/3/data/secret") == b"!EACCES"
    assert library.error("xs_set_target", 8, 99) == "No such file or directory"
    assert library.ask("xs_set_target", 8, 3)
    assert model.read("/local/domain/3/data/secret") == b"s"
    assert served.guest.read("/local/domain/8/data") == b"!EACCES", "it works one way"
    served.store.release(3)
    assert served.store.targets == {}


def test_xens_library_controls(served: Served, library: Library) -> None:
    assert [line.partition("\t")[0] for line in library.control("help").splitlines()] == ["check", "log", "memreport", "print", "quota", "help"]
    assert library.control("check") == "OK"
    assert "nodes            :     1000 Nodes per domain\n" in library.control("quota")
    assert library.control("quota", "set", "nodes", "30") == "OK"
    assert library.control("quota", "3").startswith("Domain 3:\nnodes           : ")
    results = {served.guest.write(f"data/{number}", "") for number in range(30)}
    assert results == {b"OK\0", b"!ENOSPC"}
    assert library.control("quota", "99") == "No such file or directory"
    for wrong in (("quota", "set", "nodes", "0"), ("quota", "set", "nonsense", "1"), ("live-update", "-s"), ("log", "maybe"), ("check", "x")):
        assert library.control(*wrong) == "Invalid argument"
    assert "domain 3: " in library.control("memreport")
    assert library.control("print", "hello there") == "OK" and served.said[-1] == "control: hello there"
    assert library.control("log", "on") == "OK"
    served.guest.read("name")
    assert served.said[-1].startswith("domain 3 connection ") and served.said[-1].endswith("READ tx 0: name ")
    assert library.control("log", "off") == "OK"


@needs_tools
def test_an_engine_serves_its_store_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "store"
    engine = subprocess.Popen([sys.executable, "-m", "xenconsole", "create", "-c", "guests/shell.cfg", f"--xenstored={path}"],
                              cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert engine.stdin is not None and engine.stdout is not None
    try:
        read_until(engine.stdout.fileno(), b"xen>")
        shown = subprocess.run(["xenstore-read", "/local/domain/1/name"], env={**os.environ, "XENSTORED_PATH": str(path)}, capture_output=True)
        assert shown.stdout == b"shell\n"
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        engine.terminate()
        engine.communicate(timeout=PATIENCE_SECONDS)
    assert not path.exists()
