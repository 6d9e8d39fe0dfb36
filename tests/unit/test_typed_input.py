"""What is typed is counted until the guest's holder has taken it, also while it takes some at that moment."""

from __future__ import annotations

import threading

from emulator.dom0.toolstack import Toolstack
from tests.unit.test_creation import named


def test_bytes_taken_while_others_are_typed_are_not_counted_for_ever() -> None:
    """Else a console takes no more input at last."""
    tools = Toolstack(pool_kib=64 << 10, cpus=1)  # not started: nobody takes the guest up
    guest = tools.guest(tools.create(named("a"), False, lambda said: None))
    taking = threading.Thread(target=guest._typed, args=(b"first",))

    class Slow(int):
        def __add__(self, more: int) -> int:
            taking.start()
            taking.join(0.3)
            return int(self) + more

    assert guest.type(b"first") == 5
    guest._posted = Slow(guest._posted)
    assert guest.type(b"second") == 6
    taking.join()
    assert guest._posted == 6
    tools.destroy(guest.domid)
