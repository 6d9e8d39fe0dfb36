"""Two guests on one network, ours and Debian's, with everything a host runs around them."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from emulator.abi.ring import REQ_PROD
from emulator.control.networkportraits import Networkscape
from emulator.dom0 import networkverbs
from emulator.dom0.config import parse_config
from emulator.dom0.guest import Guest
from emulator.dom0.network import Frame, UplinkSpec
from emulator.dom0.network.decode import one_line
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError
from tests.functional.linux_guest import BUSYBOX, ROOT, kernel, needs_linux
from tests.patience import PATIENCE_SECONDS, until
from tests.ports import free_port

GUESTS = ROOT / "guests"


class Host:
    """A toolstack, and guests typed to by name."""

    def __init__(self) -> None:
        self.tools = Toolstack(pool_kib=1 << 20, cpus=2)
        self.tools.start()
        self.domids: dict[str, int] = {}

    def create(self, text: str) -> None:
        config = parse_config(text, file=str(GUESTS / "test.cfg"))
        self.domids[config.name] = self.tools.create(config, False, lambda told: None)

    def said(self, name: str, start: int = 0) -> str:
        domid = self.domids[name]
        guest = self.tools.guests.get(domid)
        transcript = guest.transcript if guest is not None else self.tools.obituaries[domid].transcript
        return transcript.tail(transcript.end - start).decode("utf-8", "replace").replace("\r", "")

    def until(self, name: str, pattern: str, *, start: int = 0) -> re.Match[str]:
        def told() -> object:
            return self.said(name, start)[-1500:], [line.text for line in self.tools.log][-10:]

        return until(lambda: re.search(pattern, self.said(name, start)), told) or pytest.fail("not said")

    def pong(self) -> Guest:
        """One that hears: what is sent before its interface is connected reaches the network only, and no capture of it."""
        self.create(ours("pong", "ip=10.7.0.2"))
        self.until("pong", "pong: 10.7.0.2")
        return self.tools.guests[self.domids["pong"]]

    def run(self, name: str, command: str) -> str:
        """What a command printed on a Linux guest."""
        guest = self.tools.guests[self.domids[name]]
        start = guest.transcript.end
        guest.type(f"{command}; echo end''ed\n".encode())
        self.until(name, r"ended\n", start=start)
        return self.said(name, start)


@pytest.fixture
def host() -> Iterator[Host]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    made = Host()
    yield made
    made.tools.stop()
    sys.setswitchinterval(before)


def ours(name: str, extra: str, vif: str = "bridge=net0") -> str:
    return f'name="{name}"\nkernel="images/{name}.elf"\nextra="{extra}"\nmemory=4\nvif=["{vif}"]\non_poweroff="preserve"\non_crash="preserve"\n'


def test_ping_and_pong_lose_nothing_and_tell_how_long_it_took(host: Host, tmp_path: Path) -> None:
    pong = host.pong()
    assert f"vif{pong.domid}.0 is captured to {tmp_path}/pong-vif{pong.domid}.0-" in networkverbs.toggle_capture(pong, "", str(tmp_path))
    assert (pong.vifs.devices[0].capture or pytest.fail("no capture")).path.stat().st_mode & 0o77 == 0
    host.create(ours("ping", "ip=10.7.0.1 peer=10.7.0.2 count=300 rounds=1 wait=300"))
    host.until("ping", r"300 sent, 0 lost; min \d+, mean \d+, max \d+ us\n +\d+ us +\d+ #+")
    (report,) = networkverbs.reports(pong)
    assert report.rx_frames == report.tx_frames >= 302 and report.rx_dropped == report.tx_errors == 0
    assert (report.backend_state, report.frontend_state, report.bridge) == ("connected", "connected", "net0")
    frames = report.rx_frames + report.tx_frames
    assert networkverbs.toggle_capture(pong, "", "").startswith(f"{frames} frames of vif{pong.domid}.0 are in {tmp_path}")
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    kinds, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert data[at + size - 4 : at + size] == struct.pack("<I", size)
        kinds.append(kind)
        at += size
    assert kinds[:2] == [0x0A0D0D0A, 1] and kinds[2:] == [6] * frames


def test_a_capture_overwrites_nothing_and_stops_at_its_limit(host: Host, tmp_path: Path) -> None:
    pong = host.pong()
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="mine exists"):
        networkverbs.toggle_capture(pong, "0", str(tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "precious"
    networkverbs.toggle_capture(pong, "0", str(tmp_path / "a.pcapng"), 4096)
    with pytest.raises(UserError, match=r"is captured to .*a\.pcapng already \(end that"):
        networkverbs.toggle_capture(pong, "0", str(tmp_path / "b.pcapng"))
    host.create(ours("ping", "ip=10.7.0.1 peer=10.7.0.2 count=40 rounds=1 wait=300"))
    host.until("ping", "40 sent, 0 lost")
    assert "its limit of 4 KiB is reached" in networkverbs.toggle_capture(pong, "0", "")
    assert 3900 < (tmp_path / "a.pcapng").stat().st_size <= 4096
    with pytest.raises(UserError, match="at most 1024"):
        networkverbs.toggle_capture(pong, "", "", 1 << 40)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no tcpdump here")
def test_tcpdump_reads_a_capture_and_says_what_our_tail_says(host: Host, tmp_path: Path) -> None:
    pong = host.pong()
    networkverbs.toggle_capture(pong, "", str(tmp_path / "pong.pcapng"))
    host.create(ours("ping", "ip=10.7.0.1 peer=10.7.0.2 count=5 rounds=1 wait=300"))
    host.until("ping", "5 sent, 0 lost")
    networkverbs.toggle_capture(pong, "", "")
    read = subprocess.run(["tcpdump", "-n", "-t", "-r", str(tmp_path / "pong.pcapng")], capture_output=True, text=True, check=True)
    tail, _ = host.tools.networks.get("net0").tail(0, 100)
    told, ours_told = read.stdout.splitlines(), [one_line(seen.data, seen.length) for seen in tail if not seen.why]
    assert [line for line in told if "UDP" in line] == [line for line in ours_told if "UDP" in line] and sum("UDP" in line for line in told) == 12
    assert sorted(told) == sorted(ours_told), "a question by ARP that was slowly answered is asked again: the two may then stand in another order"


def test_a_hostile_frontend_is_closed_with_a_reason_and_its_neighbours_lose_nothing(host: Host) -> None:
    """Its ring's index jumps while two others talk; then a flood from it that nobody asked for."""
    host.pong()
    host.create('name="evil"\nkernel="images/pong.elf"\nextra="ip=10.7.0.3"\nmemory=4\nvif=["bridge=net0"]\non_crash="preserve"\n')
    host.until("evil", "pong: 10.7.0.3")
    host.create(ours("ping", "ip=10.7.0.1 peer=10.7.0.2 count=300 rounds=1 wait=300"))
    host.until("ping", "datagrams")
    evil = host.tools.guests[host.domids["evil"]]
    vif = evil.vifs.devices[0]

    def jump() -> None:
        head = vif.queues[0].place.frames[0] * 4096
        evil.domain.memory.bytes[head + REQ_PROD : head + REQ_PROD + 4] = b"\xff\xff\0\0"
        vif.kick()

    vif.network.send(vif.port, [Frame(b"\xff" * 6 + vif.spec.mac + b"\x08\x00" + bytes(50))] * 20_000)
    evil.domain.ask(jump).result(PATIENCE_SECONDS)
    host.until("ping", "300 sent, 0 lost")
    (report,) = networkverbs.reports(evil)
    assert "sending: req_prod 0xffff is" in report.trouble and report.backend_state == "closing"
    assert any(f"{vif.name} closed: sending: req_prod" in line.text for line in host.tools.log)
    (shown,) = (one for one in Networkscape(host.tools.networks).view([evil]).vifs)
    assert shown.alarm.startswith("closed: sending: req_prod")


def test_a_rate_limit_holds(host: Host) -> None:
    """50 kb/s are 312 bytes every 50 ms, the first of them when the interface is made: 10 datagrams of 1,442 bytes wait for 46 of these.
    (Few datagrams at a low rate: none takes the quarter of a second there and back in which it would have to wait for none.)"""
    host.pong()
    began = time.monotonic()
    host.create(ours("ping", "ip=10.7.0.1 peer=10.7.0.2 count=10 size=1400 rounds=1 wait=300", "bridge=net0,rate=50Kb/s"))
    host.until("ping", "10 sent, 0 lost")
    assert time.monotonic() - began > (10 * 1442 // 312 - 1) * 0.05
    assert networkverbs.reports(host.tools.guests[host.domids["ping"]])[0].throttled > 0


def test_forged_frames_go_nowhere(host: Host) -> None:
    vif = host.pong().vifs.devices[0]
    heard: list[Frame] = []

    class Listener:
        name = "listener"

        def deliver(self, frames: list[Frame]) -> None:
            heard.extend(frames)

    vif.network.attach(Listener())
    forged = Frame(b"\xff" * 6 + bytes.fromhex("00163e999999") + b"\x08\x00" + bytes(46))
    vif.network.send(vif.port, [forged])
    assert not heard
    (net0,) = host.tools.networks.reports()
    assert net0.ports[0].counters.forged == 1


def test_a_wrong_interface_is_told_and_changes_nothing(host: Host) -> None:
    pong = host.pong()
    with pytest.raises(UserError, match="is there already"):
        networkverbs.attach(pong, "devid=0")
    with pytest.raises(UserError, match="no interface 7: there are: 0"):
        networkverbs.detach(pong, "7")


@pytest.fixture(scope="module")
def net_ramdisk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ramdisk = tmp_path_factory.mktemp("net") / "initramfs.cpio.gz"
    release = kernel().name.removeprefix("vmlinuz-")
    if not Path("/lib/modules", release).exists() or not BUSYBOX.exists():
        pytest.skip(f"no modules of {release}")
    command = [sys.executable, str(GUESTS / "mkinitramfs.py"), "-o", str(ramdisk), "--modules", "xen-netfront", "--kernel", release]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return ramdisk


@pytest.fixture(scope="module")
def linux_cfg(net_ramdisk: Path) -> str:
    return f'kernel="{kernel()}"\nramdisk="{net_ramdisk}"\nextra="console=hvc0 quiet"\nmemory=160\n'


@needs_linux
def test_the_two_cfg_files_are_a_network(host: Host, net_ramdisk: Path) -> None:
    """linux-net.cfg and linux-peer.cfg as they are, but for where this machine has the kernel: addresses at boot, names, echo."""
    for name in ("linux-net", "linux-peer"):
        text = (GUESTS / f"{name}.cfg").read_text()
        host.create(text.replace('"/vmlinuz"', f'"{kernel()}"').replace('"linux-net.cpio.gz"', f'"{net_ramdisk}"'))
    for name in ("linux-net", "linux-peer"):
        host.until(name, f"root@{name}")
    assert "10.0.2.2/24" in host.run("linux-net", "while ! ip addr show eth0 | grep 'inet 10'; do sleep 0.1; done")
    host.run("linux-peer", "while ! ip addr show eth0 | grep 'inet 10'; do sleep 0.1; done")
    assert " 0% packet loss" in host.run("linux-peer", "ping -q -A -c 10 10.0.2.2")
    assert " 0% packet loss" in host.run("linux-net", "ping -q -A -c 10 10.0.2.200")
    assert "10.0.2.2" in host.run("linux-net", "nslookup linux-net.xen")


@needs_linux
def test_two_linux_guests_ping_and_move_megabytes(host: Host, linux_cfg: str) -> None:
    for name in ("a", "b"):
        host.create(f'name="{name}"\nvif=["bridge=net0"]\n{linux_cfg}')
    for number, name in enumerate(("a", "b"), start=1):
        host.until(name, "root@guest")
        host.run(name, f"ip addr add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up")
    assert "1000 packets transmitted, 1000 packets received, 0% packet loss" in host.run("a", "ping -q -A -c 1000 10.0.0.2")
    made = host.run("b", "mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/x bs=1M count=50 2>/dev/null; md5sum /tmp/www/x; httpd -p 80 -h /tmp/www")
    digest = re.search(r"\b[0-9a-f]{32}\b", made)
    assert digest is not None and digest.group() in host.run("a", "wget -q -O - http://10.0.0.2/x | md5sum")
    # Plugged out and in while it runs.
    a = host.tools.guests[host.domids["a"]]
    assert networkverbs.detach(a, "0") == f"vif{a.domid}.0"
    host.run("a", "while ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done")
    networkverbs.attach(a, "bridge=net0")
    host.run("a", "while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done; ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up")
    host.run("a", "until ping -q -c 1 -W 1 10.0.0.2; do :; done")  # what comes before it is connected again is lost
    assert " 0% packet loss" in host.run("a", "ping -q -A -c 20 10.0.0.2")


@needs_linux
def test_a_linux_with_two_vcpus_has_two_queues_and_uses_them(host: Host, linux_cfg: str) -> None:
    """Several connections at once, in large frames that nobody cuts."""
    host.create(f'name="a"\nvcpus=2\nvif=["bridge=net0"]\n{linux_cfg}')
    host.create(f'name="b"\nvif=["bridge=net0"]\n{linux_cfg}')
    for number, name in enumerate(("a", "b"), start=1):
        host.until(name, "root@guest")
        host.run(name, f"ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up")
    assert "rx-0 rx-1 tx-0 tx-1" in host.run("a", "echo $(ls /sys/class/net/eth0/queues)")
    made = host.run("b", "mkdir -p /srv; dd if=/dev/urandom of=/srv/x bs=256k count=1 2>/dev/null; md5sum /srv/x; httpd -p 80 -h /srv")
    digest = re.search(r"\b[0-9a-f]{32}\b", made)
    assert digest is not None
    script = "for i in $(seq 20); do wget -q -O - http://10.0.0.2/x | md5sum & done; wait"
    assert host.run("a", script).count(digest.group()) == 20
    (a,) = (guest for guest in host.tools.guests.values() if guest.name == "a")
    assert [queue.rx.rsp_prod > 50 for queue in a.vifs.devices[0].queues] == [True, True]
    assert any(frame.length > 1514 for frame in host.tools.networks.get("net0").tail(0, 512)[0])


@needs_linux
def test_a_restored_linux_goes_on_pinging(host: Host, linux_cfg: str) -> None:
    host.create(ours("pong", "ip=10.0.0.2"))
    host.until("pong", "pong: 10.0.0.2")
    host.create(f'name="a"\nvif=["bridge=net0"]\n{linux_cfg}')
    host.until("a", "root@guest")
    host.run("a", "ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up")
    assert " 0% packet loss" in host.run("a", "ping -q -A -c 20 10.0.0.2")
    host.tools.snapshot(host.domids["a"], "net")
    assert " 0% packet loss" in host.run("a", "ping -q -A -c 50 10.0.0.2")
    host.tools.restore(host.domids["a"], "net")
    assert " 0% packet loss" in host.run("a", "ping -q -A -c 20 10.0.0.2")


@needs_linux
def test_an_uplink_gives_a_linux_its_address_and_answers_it(host: Host, linux_cfg: str) -> None:
    host.tools.networks.set_uplink("net0", UplinkSpec())
    host.create(f'name="a"\nvif=["bridge=net0"]\n{linux_cfg}')
    host.until("a", "root@guest")
    script = "echo 'test $1 != bound || ip addr add $ip/24 dev eth0' | sed '1i#!/bin/sh' >/tmp/s; chmod +x /tmp/s"
    said = host.run("a", f"{script}; ip link set eth0 up; udhcpc -n -t 1000 -q -s /tmp/s -x hostname:web -i eth0")
    assert "lease of 10.0.2.2 obtained" in said
    assert " 0% packet loss" in host.run("a", "ping -q -A -c 20 10.0.2.1")
    assert "10.0.2.2" in host.run("a", "nslookup web.xen 10.0.2.1")
    assert "refused" in host.run("a", "nslookup debian.org 10.0.2.1; nc 10.0.2.1 80").lower()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@needs_linux
def test_a_linux_reaches_the_services_it_was_granted_and_is_reached(host: Host, linux_cfg: str, tmp_path: Path) -> None:
    """10 MB by HTTP from the host's loopback and to it, the sums equal; datagrams there and back; the guest's own server from the loopback."""
    data = random.Random(7).randbytes(10_000_000)
    (tmp_path / "x").write_bytes(data)
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    sink, echo = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("127.0.0.1", 0))
    inward = free_port()
    services = f"8000={web.server_port}+9={sink.getsockname()[1]}+udp:7={echo.getsockname()[1]}+in:{inward}=80"
    host.create(f'name="a"\nvif=["bridge=net0,uplink={services}"]\n{linux_cfg}')
    host.until("a", "root@guest")
    script = "echo 'test $1 != bound || ip addr add $ip/24 dev eth0' | sed '1i#!/bin/sh' >/tmp/s; chmod +x /tmp/s"
    host.run("a", f"{script}; ip link set eth0 up; udhcpc -n -t 1000 -q -s /tmp/s -i eth0")
    assert hashlib.md5(data).hexdigest() in host.run("a", "wget -q -O /tmp/x http://10.0.2.1:8000/x; md5sum /tmp/x")
    received = hashlib.md5()

    def drain() -> None:
        client, _ = sink.accept()
        while part := client.recv(1 << 16):
            received.update(part)
        client.close()

    draining = threading.Thread(target=drain, daemon=True)
    draining.start()
    host.run("a", "nc 10.0.2.1 9 </tmp/x")
    draining.join(PATIENCE_SECONDS)
    assert received.digest() == hashlib.md5(data).digest()
    echo.settimeout(PATIENCE_SECONDS)
    host.tools.guests[host.domids["a"]].type(b"tftp -g -r motd -l /tmp/motd 10.0.2.1 7; cat /tmp/motd\n")  # one block is one exchange
    asked, sender = echo.recvfrom(100)
    assert asked.startswith(b"\0\1motd\0octet\0")
    echo.sendto(b"\0\3\0\1by datagram", sender)
    while (heard := echo.recvfrom(100)[0]) != b"\0\4\0\1":
        assert heard == asked  # it asks again after 50 ms
    host.until("a", "by datagram")
    host.run("a", "mkdir /www; echo from the guest >/www/y; httpd -p 80 -h /www")
    with urllib.request.urlopen(f"http://127.0.0.1:{inward}/y", timeout=PATIENCE_SECONDS) as answer:
        assert answer.read() == b"from the guest\n"
    (view,) = Networkscape(host.tools.networks).view([]).networks
    assert view.uplink is not None and sorted(one.flows for one in view.uplink.forwards) == [1, 1, 1, 1]
    web.shutdown()
