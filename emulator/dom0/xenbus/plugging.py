"""Devices that come and go while a domain runs, as messages: logged, so that a replay plugs the same devices at the same places."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from emulator.errors import UserError


@dataclass(frozen=True, slots=True)
class Detach:
    """Have the guest let a device go; `force`: without asking. `which` as GuestDisks.find and GuestVifs.find take it."""

    which: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Plug:
    """An order for the devices of one kind (`receiver`: "disks", "vifs"), served whether the domain runs, pauses or has ended
    (Domain.post_peer). The order is all that a replay needs; who gave it waits for `answer`."""

    receiver: str
    order: object
    answer: Future[Any] = field(default_factory=Future, compare=False, repr=False)

    def apply(self, domain: Any) -> None:
        if self.answer.cancelled() or not (domain.replaying or self.answer.set_running_or_notify_cancel()):
            return
        try:
            found = domain.receivers[self.receiver](self.order)
        except UserError as refused:
            if not domain.replaying:
                self.answer.set_exception(refused)
        except BaseException as bug:
            if not domain.replaying:
                self.answer.set_exception(bug)
            raise
        else:
            if not domain.replaying:
                self.answer.set_result(found)

    def gone(self, domid: int) -> None:
        self.answer.cancel()
