"""What the network brought a guest is in its log: the same guest built again and given the log ends the same, with nobody on its network."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from emulator.dom0.config import parse_config
from emulator.dom0.network import Frame, packets
from emulator.hypervisor.replay import replay
from tests.functional.linux_guest import ROOT, build
from tests.functional.test_determinism import end_of

PONG, US = bytes((10, 7, 0, 2)), bytes((10, 7, 0, 1))
MAC = bytes.fromhex("00163e000001")
CFG = 'name="pong"\nkernel="images/pong.elf"\nextra="ip=10.7.0.2"\nmemory=4\nvif=["bridge=net0,rate=1Mb/s"]\n'


def test_a_run_with_a_network_replays_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(CFG, file=str(ROOT / "guests" / "test.cfg"))
    heard: list[Frame] = []

    class Listener:
        name = "us"

        def deliver(self, frames: list[Frame]) -> None:
            heard.extend(frames)

    guest = build(config, monkeypatch)
    domain, vif = guest.domain, guest.vifs.devices[0]
    domain.recording = []
    port = vif.network.attach(Listener(), MAC)
    now_ns = 0  # not the host's time: on a slow machine too, the guest sends faster than its credit comes

    def run_until(reached: Callable[[], bool]) -> None:
        nonlocal now_ns
        while not reached():
            assert not domain.ended and now_ns < 60_000_000_000, guest.transcript.tail(1000)
            now_ns += 300_000
            domain.slice(300_000, now_ns)

    run_until(lambda: b"pong: 10.7.0.2" in guest.transcript.tail(4000))
    vif.network.send(port, [Frame(packets.ethernet(b"\xff" * 6, MAC, packets.ARP, packets.arp(1, MAC, US, bytes(6), PONG)))])
    run_until(lambda: len(heard) == 1)
    for number in range(1, 151):  # more than the burst of 128 KiB: the last ones wait for credit
        payload = struct.pack("<Q", number) * 170
        vif.network.send(port, [Frame(packets.ethernet(vif.spec.mac, MAC, packets.IPV4, packets.udp(US, 4000, PONG, 7, payload)))])
        run_until(lambda: len(heard) > number)  # noqa: B023 - called within the round
    assert [packets.read_udp(packet)[2][:8] for frame in heard[1:] if (packet := packets.read_ip(frame.data))] == [  # type: ignore[index]
        struct.pack("<Q", number) for number in range(1, 151)
    ]
    assert vif.bucket is not None and vif.bucket.waits
    log, end = domain.recording, end_of(guest)
    guest.close()

    again = build(config, monkeypatch)
    replay(again.domain, log, end.count)
    assert end_of(again).differs(end) == []
    again.close()
