"""What people mistype, and what they leave in folders, by the control interface's own commands on a real host: one line each, and nothing
half-done."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from emulator.control.commands import run_command
from emulator.control.host import Host
from emulator.dom0.network import UplinkSpec
from emulator.errors import UserError
from xenconsole.command_line import Surroundings, complete, parse

IMAGES = Path(__file__).resolve().parents[2] / "guests/images"


class Commands:
    def __init__(self, host: Host) -> None:
        self.host, self.networks = host, host._tools.networks
        text = f'name = "g"\nkernel = "{IMAGES / "counter"}.elf"\nmemory = 4\nvif = ["bridge=net0"]'
        self.domid = run_command(host, "create", {"text": text}, lambda said: None).domid

    def __call__(self, name: str, **args: str | int | bool) -> str:
        return run_command(self.host, name, args, lambda said: None).message

    def refused(self, name: str, **args: str | int | bool) -> str:
        with pytest.raises(UserError) as refusal:
            self(name, **args)
        line = refusal.value.line()
        assert "\n" not in line and line.encode()
        return line


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    monkeypatch.setenv("XENCONSOLE_DISKS", str(tmp_path / "disks"))
    monkeypatch.chdir(tmp_path)
    host = Host(pool_kib=64 << 10, cpus=3, trace=False)
    host.start()
    yield Commands(host)
    host.stop()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize("file", ["x" * 300, "/tmp/" + "x" * 300, "~nobody-of-that-name/x", "a\0b", "/proc/x"])
def test_a_capture_to_no_file(do: Commands, file: str) -> None:
    assert "capture" in do.refused("capture", domid=do.domid, file=file) or "cannot be written" in do.refused("capture", domid=do.domid, file=file)


@pytest.mark.parametrize("file", ["", "/", ".", "~nobody-of-that-name/x", "a\0b", "no-such-folder/x", "x" * 300])
def test_a_core_to_no_file(do: Commands, file: str, tmp_path: Path) -> None:
    assert "core" in do.refused("dump-core", domid=do.domid, file=file)
    assert not os.listdir(tmp_path)


def test_a_core_goes_home(do: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    do("dump-core", domid=do.domid, file="~/g.core")
    assert os.listdir(tmp_path) == ["g.core"]


def test_a_list_of_cpus_of_thousands_of_digits(do: Commands) -> None:
    for cpus in ("9" * 5000, "0-" + "9" * 5000):
        assert "no CPU or range" in do.refused("vcpu-pin", domid=do.domid, vcpu="all", cpus=cpus)


def test_cpus_change_hands_all_or_none(do: Commands) -> None:
    def cpus() -> list[str]:
        return [line.split()[-1] for line in do("cpupool-list").splitlines()[1:]]

    do("cpupool-cpu-remove", pool="Pool-0", cpus="1")
    do("cpupool-create", settings="name=other cpus=1")
    assert "ENODEV" in do.refused("cpupool-cpu-add", pool="other", cpus="0-1")
    assert "EADDRNOTAVAIL" in do.refused("cpupool-cpu-remove", pool="Pool-0", cpus="1-2")
    assert "EADDRNOTAVAIL" in do.refused("cpupool-cpu-remove", pool="other", cpus="1-2")
    assert cpus() == ["0,2", "1"]
    do("cpupool-cpu-remove", pool="Pool-0", cpus="2")
    do("cpupool-cpu-add", pool="other", cpus="2")
    do("cpupool-migrate", domid=do.domid, pool="other")
    assert "EBUSY" in do.refused("cpupool-cpu-remove", pool="other", cpus="1-2")
    assert "ENODEV" in do.refused("cpupool-cpu-add", pool="Pool-0", cpus="all")
    assert cpus() == ["0", "1,2"]


def test_an_uplink_that_cannot_be_changed_stays_as_it_was(do: Commands, taken: int) -> None:
    do("network-uplink", network="net0", services="8000")
    do("network-uplink", network="net0", services="8001")
    mac = do.host._tools.guest(do.domid).vifs.devices[0].spec.mac
    do.networks.grant("net0", mac, do.networks.uplinks["net0"].granted[None])
    assert "in use" in do.refused("network-uplink", network="net0", subnet="10.9.0.0/24", services=f"in:{taken}=web:22")
    present = do.networks.uplinks["net0"]
    assert present.uplink.spec.subnet == UplinkSpec().subnet and not present.closed
    assert present.uplink.relay is not None and present.uplink.relay.serves(mac, "tcp", 8001) and set(present.granted) == {None, mac}
    assert not present.uplink.relay.serves(mac, "tcp", 8000)


def test_an_interface_that_is_refused_leaves_no_uplink(do: Commands, taken: int) -> None:
    do.refused("network-attach", domid=do.domid, spec=f"bridge=net1,uplink=in:{taken}=:22")
    assert not do.networks.uplinks and len(do("network-list", domid=do.domid).splitlines()) == 2


def test_no_uplink_of_no_network(do: Commands) -> None:
    assert "net0" in do.refused("network-uplink", network="ent0", subnet="off")
    assert not do.networks.has("ent0")


def test_a_file_whose_name_is_no_text_hides_no_other_disk(do: Commands, tmp_path: Path) -> None:
    do("disk-create", disk="good", size="1M")
    odd = os.fsencode(tmp_path / "disks") + b"/a\xff"
    for suffix in (b".img", b".overlay"):
        with open(odd + suffix, "wb") as file:
            file.write(bytes(4096))
    names = [disk.name for disk in msgspec.msgpack.decode(msgspec.msgpack.encode(do.host.storage.pool()), type=type(do.host.storage.pool())).disks]
    assert "good" in names and len(names) == 3
    os.unlink(odd + b".overlay")
    assert do("disk-remove", disk=next(name for name in names if name != "good"))
    assert [disk.name for disk in do.host.storage.pool().disks] == ["good"]


@pytest.mark.parametrize("name", ["", "a/b", "../../x", " a", "a\n", "x" * 129])
def test_a_domain_is_renamed_to_no_path(do: Commands, name: str) -> None:
    assert "will not do as a name" in do.refused("rename", domid=do.domid, new=name)


def test_a_port_of_no_guest(do: Commands) -> None:
    assert "in:2222=NAME:22" in do.refused("network-uplink", network="net0", services="in:2222=:22")
    assert not do.networks.uplinks


@pytest.mark.parametrize("word", ["9" * 5000, "²", "٣"])
def test_no_domain_has_such_a_number(do: Commands, word: str) -> None:
    around = Surroundings({do.domid: "g"}, do.domid)
    with pytest.raises(UserError, match="no domain"):
        parse(f"pause {word}", around)
    assert complete(f"pause {word} ", around) == complete("pause ? ", around)
    with pytest.raises(UserError, match="no domain"):
        do.host.find(word)
