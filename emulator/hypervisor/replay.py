"""A recording played back: the same domain, built the same way and given the same log, runs the same instructions, bit for bit.

It stops where the recorded one stopped (`Cut`), whether a message came there or not. What a stop may leave half done is the beginning of
a turn (timers fired, a vCPU chosen, its events delivered, and then a message came before the first block ran): the log says how far
it had come, and here it comes as far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.hypervisor.mailbox import Cut, Logged, Stage

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


def replay(domain: Domain, log: list[Logged], end: int) -> None:
    """Run from here to count `end`, each message of `log` applied where it was. RuntimeError when the domain is not the recorded one."""
    domain.replaying = True
    try:
        for entry in log:
            _run_to(domain, entry.count)
            if isinstance(entry.message, Cut):
                continue
            if entry.stage is Stage.CHOSEN:
                domain.choose()
            elif entry.stage is Stage.DELIVERED:
                domain.advance(entry.count)  # no block runs
            entry.message.apply(domain)
            domain.rotation.fresh = True
        _run_to(domain, end)
    finally:
        domain.replaying = False


def _run_to(domain: Domain, count: int) -> None:
    while domain.clock.count < count and not domain.ended:
        before = domain.clock.count
        domain.advance(count)
        if domain.clock.count == before and domain.blocked:
            raise RuntimeError(f"replay went astray: blocked at count {before} before {count}")
