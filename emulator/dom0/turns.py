"""Having something done in a domain's turn: by its holder, between two slices. Callable from any thread; UserError."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

from emulator.dom0.xenbus import Plug, XenbusBackend
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest

T = TypeVar("T")
D = TypeVar("D", bound=XenbusBackend)
TURN_SECONDS: Final = 30.0
LET_GO_SECONDS: Final = 10.0  # libxl's LIBXL_DESTROY_TIMEOUT


def in_turn(guest: Guest, act: Callable[[], T], seconds: float = TURN_SECONDS) -> T:
    """The answer of a question (see Domain.ask)."""
    return _wait(guest, guest.domain.ask(act), seconds)


def plug(guest: Guest, order: Plug) -> Any:
    """The device that an order for the guest's devices brought or lets go. It is logged."""
    guest.domain.post_peer(order)
    return _wait(guest, order.answer, TURN_SECONDS)


def until_gone(guest: Guest, device: D) -> D:
    """Waits until an unplugged device holds nothing any more."""
    if not device.closed.wait(LET_GO_SECONDS):
        raise UserError(f"{device.label} is still in use by domain {guest.domid}", fix="have the guest let it go; or detach it by force")
    return device


def _wait(guest: Guest, answer: Future[T], seconds: float) -> T:
    try:
        return answer.result(seconds)
    except CancelledError:
        raise UserError(f"domain {guest.domid} is gone") from None
    except TimeoutError:
        if not answer.cancel():
            return answer.result()  # being done, or done, at this very moment
        raise UserError(f"domain {guest.domid} did not answer within {seconds:.0f} s", fix="try again; destroy it if it never does") from None
