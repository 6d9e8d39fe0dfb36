"""A Linux guest at the store's door and at its console: it sees what it may, a backend dies with it, its terminal's size is asked for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.abi.xenbus import XENBUS_CLOSED, XENBUS_CLOSING, XENBUS_INIT_WAIT, XENBUS_INITIALISING
from emulator.control import portraits
from emulator.dom0.xenbus import Command
from emulator.dom0.xenstore import wire
from tests.functional.block_guest import Shell, booted
from tests.functional.linux_guest import PROMPT, needs_linux, write_cfg
from tests.patience import PATIENCE_SECONDS
from tests.unit.xenstore_client import Client, introduced
from xenconsole.terminal.bittty_core import BitttyCore

pytestmark = [pytest.mark.linux, needs_linux]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("store")
    with booted(write_cfg(folder, extra="vif = [ '' ]\n")) as started:
        yield started


def ask(shell: Shell, kind: int, payload: bytes) -> str:
    """A request written to Linux's door to the store, which passes it through the ring; the answer, NULs shown as spaces."""
    message = "".join(f"\\{byte:03o}" for byte in wire.message(kind, 1, 0, payload))
    shell.ask("exec 3<>/dev/xen/xenbus")
    try:
        return shell.ask(f"printf '{message}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | tail -c +17 | tr '\\000' ' '; echo").rstrip()
    finally:
        shell.ask("exec 3<&-")


def test_a_guest_sees_what_it_may_see_and_no_more(shell: Shell) -> None:
    store, domid = shell.tools.store, shell.guest.domid
    other = introduced(store, 77, "other")
    assert other.write("data/secret", "s") == b"OK\0"
    own = f"/local/domain/{domid}"
    assert ask(shell, wire.XS_READ, b"name\0") == "linux"
    assert ask(shell, wire.XS_DIRECTORY, f"{own}/device\0".encode()) == "suspend vif"
    assert ask(shell, wire.XS_WRITE, b"data/mine\0hello") == "OK"
    assert store.read(f"{own}/data/mine") == "hello"
    for path in ("/local/domain/77/name", "/local/domain/77/data/secret", "/local/domain/77", "/vm/nothing", "/libxl", "/local/domain/0/name"):
        assert ask(shell, wire.XS_READ, f"{path}\0".encode()) == "EACCES", path
    assert ask(shell, wire.XS_WRITE, b"name\0forged") == "EACCES"
    assert ask(shell, wire.XS_WRITE, b"/local/domain/77/data/secret\0forged") == "EACCES"
    assert ask(shell, wire.XS_RM, own.encode() + b"\0") == "EACCES"
    assert ask(shell, wire.XS_SET_PERMS, own.encode() + b"/name\0n0\0b" + str(domid).encode() + b"\0") == "EACCES"
    for kind in (wire.XS_INTRODUCE, wire.XS_RELEASE, wire.XS_CONTROL, wire.XS_SET_TARGET, wire.XS_RESUME, wire.XS_IS_DOMAIN_INTRODUCED):
        assert ask(shell, kind, b"77\x001\x002\0") == "EACCES"
    assert other.ask(wire.XS_SET_PERMS, "data/secret", "n77", f"r{domid}") == b"OK\0"
    assert ask(shell, wire.XS_READ, b"/local/domain/77/data/secret\0") == "s"
    store.release(77)


def test_the_size_of_the_window_is_asked_of_the_terminal(shell: Shell) -> None:
    window = BitttyCore(97, 31)
    shell.ask("true")
    start = shell.guest.transcript.end
    shell.guest.type(b"resize\r")
    said, end = b"", time.monotonic() + PATIENCE_SECONDS
    while not re.search(rb"\n[^\n]*columns.*\n" + re.escape(PROMPT), said, re.DOTALL):
        assert time.monotonic() < end, said
        begin = start + len(said)
        fresh = shell.guest.transcript.read(begin, 1 << 16)[1]
        said += fresh
        window.feed(fresh)
        shell.guest.type(window.take_replies())
        time.sleep(0.01)
    assert b"31 rows, 97 columns" in said
    assert shell.ask("stty size") == "31 97"
    shell.ask("stty cols 1000")


def test_a_terminal_that_does_not_answer_leaves_the_size_alone(shell: Shell) -> None:
    before = shell.ask("stty size")
    assert "did not answer" in shell.ask("resize")
    assert shell.ask("stty size") == before


def test_the_console_s_nodes_are_those_of_xenconsoled(shell: Shell) -> None:
    store, domid = shell.tools.store, shell.guest.domid
    found = {path.rpartition("/")[2]: value for path, value in store.subtree(f"/local/domain/{domid}/console")[1:]}
    assert found == {
        "backend": f"/local/domain/0/backend/console/{domid}/0", "backend-id": "0", "limit": "1048576", "type": "xenconsoled",
        "output": "pty", "tty": "", "port": str(shell.guest.console_port), "ring-ref": str(shell.guest.console_mfn),
    }  # fmt: skip
    back = {path.rpartition("/")[2]: value for path, value in store.subtree(found["backend"])[1:]}
    assert back == {"frontend": f"/local/domain/{domid}/console", "frontend-id": str(domid), "online": "1", "state": "1", "protocol": "vt100"}


def test_the_handshake_of_its_interface_is_told_step_by_step(shell: Shell) -> None:
    (view,) = shell.guest.domain.ask(lambda: portraits.QUESTIONS["handshakes"](shell.guest)).result(PATIENCE_SECONDS)
    assert re.fullmatch(r"vif\d+\.0", view.device) and view.kind == "vif" and not view.trouble
    assert view.steps[0].who == "toolstack" and view.steps[1].after == "init-wait" and dict(view.steps[1].nodes)["feature-rx-copy"] == "1"
    assert view.since_unix == view.steps[-1].time_unix
    assert "no driver has yet" in view.waits, "this initramfs has no network driver"


def test_what_a_tool_writes_moves_a_backend_in_the_domains_own_turn(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    vif, domain, turns = shell.guest.vifs.devices[0], shell.guest.domain, list[bool]()
    carried_out = vif.run

    def run(commands: list[Command]) -> None:
        turns.append(domain.held_here())
        carried_out(commands)

    monkeypatch.setattr(vif, "run", run)
    for state, becomes in ((XENBUS_CLOSING, XENBUS_CLOSING), (XENBUS_CLOSED, XENBUS_CLOSED), (XENBUS_INITIALISING, XENBUS_INIT_WAIT)):
        shell.tools.store.write(f"{vif.front}/state", str(state))  # in the test's thread
        shell.until(lambda becomes=becomes: vif.handshake.state == becomes)  # type: ignore[misc]
    assert len(turns) >= 3 and all(turns)


def test_a_tool_of_domain_0_hears_of_its_end(tmp_path: Path) -> None:
    with booted(write_cfg(tmp_path)) as shell:
        store = shell.tools.store
        tool = Client(store.connect(0))
        tool.ask(wire.XS_WATCH, "@releaseDomain", "end")
        tool.heard()
        shell.end()
        shell.until(lambda: bool(tool.heard()))
        assert store.read(f"/local/domain/{shell.guest.domid}") is None
