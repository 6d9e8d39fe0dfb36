"""The balloon policy with Debian's Linux, whose shell tells xenstore what is available, as a guest agent would."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from emulator.dom0.config import parse_config
from emulator.dom0.guest import Guest
from emulator.dom0.toolstack import Toolstack
from tests.functional.linux_guest import PROMPT, ROOT, config_of, needs_linux, write_cfg
from tests.patience import PATIENCE_SECONDS, until

pytestmark = [pytest.mark.linux, needs_linux]
MIB = 1024
AGENT = (
    "while :; do set -- $(grep MemAvailable /proc/meminfo); "
    # XS_WRITE (11), request 0, no transaction, 26 bytes: the path, NUL, eight digits
    "printf '\\013\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\032\\0\\0\\0data/meminfo_free\\0%08d' $2 >/dev/xen/xenbus; sleep 0.5; done &\r"
)


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Toolstack, Guest]]:
    cfg = write_cfg(tmp_path_factory.mktemp("balloon"), memory=128)
    cfg.write_text(cfg.read_text() + "maxmem = 192\n")
    tools = Toolstack(pool_kib=(128 + 16) * MIB, cpus=2)
    tools.start()
    try:
        made = tools.guests[tools.create(config_of(cfg), False, lambda text: None)]
        until(lambda: PROMPT in made.transcript.tail(4000))
        yield tools, made
    finally:
        tools.stop()


def test_an_idle_linux_gives_to_a_hungry_neighbour_and_gets_more_when_it_is_hungry_itself(host: tuple[Toolstack, Guest]) -> None:
    tools, linux = host
    node = f"/local/domain/{linux.domid}/data/meminfo_free"
    linux.type(AGENT.encode())
    until(lambda: tools.store.read(node))
    text = 'name="hungry"\nkernel="images/hello.elf"\nmemory=16\nmaxmem=64\n'
    hungry = tools.create(parse_config(text, file=str(ROOT / "guests" / "test.cfg")), False, lambda told: None)
    tools.store.write(f"/local/domain/{hungry}/data/meminfo_free", "0")
    assert tools.pool.free == 0
    tools.autoballoon.turn(True)
    until(lambda: linux.domain.reservation.owned < 128 * 256)
    until(lambda: tools.guests[hungry].memory.target > 16 * 256)
    assert tools.pool.free >= 0
    tools.destroy(hungry)
    until(lambda: linux.domain.reservation.owned == linux.memory.target)
    before = linux.domain.reservation.owned
    for _ in range(2):  # what is on its way may be of before
        tools.store.write(node, "")
        until(lambda: tools.store.read(node))
    available = int(tools.store.read(node) or 0) // MIB
    linux.type(f"mkdir -p /m; mount -t tmpfs -o size=95% none /m; dd if=/dev/zero of=/m/eaten bs=1M count={available - 7}\r".encode())
    until(lambda: linux.domain.reservation.owned > before)
    tools.autoballoon.turn(False)
    until(lambda: linux.domain.reservation.owned == linux.memory.target)
    target = linux.memory.target
    time.sleep(2.2)
    assert linux.memory.target == target <= 192 * 256, "off, it lets things be"
    linux.domain.ask(linux.domain.reservation.check).result(PATIENCE_SECONDS)
