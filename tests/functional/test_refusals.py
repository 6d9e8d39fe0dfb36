"""What a hostile guest was refused is told with errno and reason, its grants are shown, and nothing of its attacks got through."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from emulator.control.host import Host
from emulator.dom0.config import load_config
from tests.patience import until

ROGUE = Path(__file__).resolve().parents[2] / "guests" / "rogue.cfg"
_MINE = re.compile(r"mmu_update|mmuext|map |L[1-4]|LDT|gdt|descriptor|grant|reserv|populate|exchange|frame|physmap|page|extent|clear|copy|super")


def test_rogues_attacks_on_memory_are_refused_as_xen_refuses_them_and_told() -> None:
    host = Host(pool_kib=65536, cpus=1)
    host.start()
    try:
        config = replace(load_config(ROGUE), on_poweroff="preserve", on_reboot="preserve", on_crash="preserve")
        domid = host.create(config)
        until(lambda: next(view.shutdown for view in host.overview().domains if view.domid == domid), lambda: "rogue does not end", pause=0.05)
        detail = host.detail(domid, ("refusals", "grants"))
        assert detail.grants is not None and detail.grants.frames == 1 and detail.grants.limit == 64
        given = [(grant.ref, grant.domid, grant.kind) for grant in detail.grants.given]
        assert given == [(0, 0, "access"), (1, 0, "access"), (9, 1, "access")], "console and xenstore, and what its attacks are made with"
        seen = detail.refusals
        assert seen and all(refusal.reason and refusal.errno.startswith("E") for refusal in seen)
        output = host.console_read(domid, 0).data.decode("utf-8", "replace")
    finally:
        host.stop()
    wrong = [line.strip() for line in output.splitlines() if ("Xen:" in line or "ESCAPED" in line) and _MINE.search(line)]
    assert not wrong, "\n".join(wrong)
