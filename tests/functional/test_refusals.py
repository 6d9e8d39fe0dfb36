"""What a hostile guest was refused is told with errno and reason, its grants are shown, and nothing of its attacks got through."""

from __future__ import annotations

import re
import time
from pathlib import Path

from emulator.control.host import Host
from emulator.dom0.config import load_config

ROGUE = Path(__file__).resolve().parents[2] / "guests" / "rogue.cfg"
_MINE = re.compile(r"mmu_update|mmuext|map |L[1-4]|LDT|gdt|descriptor|grant|reserv|populate|exchange|frame|physmap|page|extent|clear|copy|super|flush")


def test_rogues_attacks_on_memory_are_refused_as_xen_refuses_them_and_told() -> None:
    host = Host(pool_kib=65536, cpus=1)
    host.start()
    try:
        config = load_config(ROGUE)
        domid = host.create(config)
        detail = host.detail(domid, ("refusals", "grants", "memory"))
        assert detail.grants is not None and detail.grants.frames == 1 and detail.grants.limit == 64
        end, seen = time.monotonic() + 60, detail.refusals
        while host.obituary(domid) is None:
            assert time.monotonic() < end, "rogue does not end"
            time.sleep(0.02)
            if domid in {view.domid for view in host.overview().domains}:
                try:
                    seen = host.detail(domid, ("refusals",)).refusals or seen
                except Exception:  # noqa: BLE001, S112 - it ended between the two
                    continue
        assert seen and all(refusal.reason and refusal.errno.startswith("E") for refusal in seen)
        output = host.console_read(domid, 0).data.decode("utf-8", "replace")
    finally:
        host.stop()
    wrong = [line.strip() for line in output.splitlines() if ("Xen:" in line or "ESCAPED" in line) and _MINE.search(line)]
    assert not wrong, "\n".join(wrong)
