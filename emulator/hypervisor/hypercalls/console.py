"""console_io: the emergency console of a guest, which goes to the host's dmesg and the domain's own transcript.

Xen allows it to an unprivileged guest in debug builds (xen/drivers/char/console.c, VERBOSE_DEBUG); here it always works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi.errno import ENOSYS
from emulator.abi.xen import MASK32, CONSOLEIO_read, CONSOLEIO_write
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_PIECE: Final = 4096
_PIECE_WORK: Final = 20  # of the domain's allowance (memory/promotion)


def console_io(vcpu: Vcpu, command: int, count: int, buffer: int, *_: int) -> int:
    command, count = command & MASK32, count & MASK32
    if command == CONSOLEIO_write:
        piece = min(_PIECE, count)
        if piece:
            vcpu.domain.tables.allowance -= _PIECE_WORK
            vcpu.domain.sinks.console_io(vcpu.domain.guest.read(buffer, piece))
        if piece < count:
            raise Preempted(command, count - piece, buffer + piece)
        return 0
    if command == CONSOLEIO_read:
        return 0  # nobody types into the hypervisor's console
    raise Refusal(ENOSYS, f"console_io {command} does not exist")


HYPERCALLS: Final = {"console_io": console_io}
