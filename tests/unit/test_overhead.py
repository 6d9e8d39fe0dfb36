"""What domains cost is told by cause, and the causes add up to what the host says."""

from __future__ import annotations

from emulator.control.commands import run_command
from emulator.control.host import Host
from emulator.dom0.config import parse_config
from emulator.dom0.overhead import measure, memory_kib
from emulator.machine import footprint
from tests.benchmarks.paper import IMAGES
from tests.patience import PATIENCE_SECONDS, until
from tests.unit.fake_host import FakeHost

COUNT = 20


def test_the_causes_are_what_the_host_says() -> None:
    host = Host(pool_kib=1 << 20, cpus=1)
    host.start()
    try:
        before = footprint.resident_kib()
        text = 'kernel = "{}"\nmemory = 4\nname = "shell{}"\n'
        domids = [host.create(parse_config(text.format(IMAGES / "shell.elf", number), file="<test>")) for number in range(COUNT)]
        guests = [host._tools.guest(domid) for domid in domids]
        until(lambda: all(b"xen> " in guest.transcript.tail(4000) for guest in guests))
        found, grown = host.overhead(), footprint.resident_kib() - before
        assert (found.domains, found.awake) == (COUNT, COUNT)
        assert found.memory == sum(map(memory_kib, guests)) and 100 < found.memory / COUNT < 5 << 10
        assert 20 < found.translated / COUNT < 1400, "code of small guests: a buffer of a MiB, used in part"
        assert abs(found.each * COUNT - (grown - found.memory)) < 0.15 * grown, "by cause, against the growth of the whole"
        taken = guests[0].domain.ask(lambda: guests[0].album.take("held")).result(PATIENCE_SECONDS)
        assert taken.name == "held" and measure(guests, 0).memory >= found.memory
    finally:
        host.stop()


def test_the_command_tells_all_causes() -> None:
    told = run_command(FakeHost(), "overhead", {}, lambda text: None).message.splitlines()
    assert told[0] == "the engine takes 100.0 MiB; 2,048 KiB a domain beside its memory"
    assert [float(line.split()[0]) for line in told[1:]] == [30.0, 10.0, 50.0, 10.0]
