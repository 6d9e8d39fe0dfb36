"""Entry points of the guest kernel: set_trap_table, set_callbacks, callback_op, nmi_op (pv/callback.c, pv/traps.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL, ENOSYS
from emulator.abi.xen import (
    FLAT_KERNEL_CS,
    TRAP_NMI,
    CALLBACK_event,
    CALLBACK_failsafe,
    CALLBACK_nmi,
    CALLBACK_syscall,
    CALLBACK_syscall32,
    CALLBACK_sysenter,
    CALLBACKF_mask_events,
    CALLBACKOP_register,
    CALLBACKOP_unregister,
)
from emulator.hypervisor.emulation.msrs import canonical
from emulator.hypervisor.refusal import Preempted, Refusal
from emulator.hypervisor.vcpu import Callback, TrapEntry

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_PIECE: Final = 256
_TRAP_INFO: Final = Struct("<BBHxxxxQ")  # struct trap_info: vector flags cs address
_REGISTER: Final = Struct("<HHxxxxQ")  # struct callback_register: type flags address


def _check_address(address: int) -> None:
    if not canonical(address):
        raise Refusal(EINVAL, f"handler address {address:#x} is not canonical")


def set_trap_table(vcpu: Vcpu, table: int, *_: int) -> int:
    """An array of trap_info ended by a null address, taken entry by entry up to a bad one; a null pointer clears all."""
    if not table:
        vcpu.handlers.traps.clear()
        return 0
    for _count in range(_PIECE):
        vcpu.domain.tables.allowance -= 1
        vector, flags, cs, address = _TRAP_INFO.unpack(vcpu.domain.guest.read(table, _TRAP_INFO.size))
        if not address:
            return 0
        _check_address(address)
        vcpu.handlers.traps[vector] = TrapEntry(flags & 3, bool(flags & 4), cs | 3, address)
        table += _TRAP_INFO.size
    raise Preempted(table)


def set_callbacks(vcpu: Vcpu, event: int, failsafe: int, syscall: int, *_: int) -> int:
    """The older form, without flags. An address that is not canonical is left out and nobody is told (do_set_callbacks)."""
    handlers = vcpu.handlers
    vcpu.forget_taught()
    if canonical(event):
        handlers.event = Callback(event, True)
    if canonical(failsafe):
        handlers.failsafe = Callback(failsafe)
    if canonical(syscall):
        handlers.syscall = Callback(syscall)
    return 0


def callback_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    handlers, command = vcpu.handlers, command & xen.MASK32
    vcpu.forget_taught()
    if command == CALLBACKOP_register:
        kind, flags, address = _REGISTER.unpack(vcpu.domain.guest.read(argument, _REGISTER.size))
        _check_address(address)
        masks = bool(flags & CALLBACKF_mask_events)
        if kind == CALLBACK_event:
            handlers.event = Callback(address, True)
        elif kind == CALLBACK_failsafe:
            handlers.failsafe = Callback(address, masks)
        elif kind == CALLBACK_syscall:
            handlers.syscall = Callback(address, masks)
        elif kind == CALLBACK_syscall32:
            handlers.syscall32 = Callback(address, masks)
        elif kind == CALLBACK_sysenter:
            handlers.sysenter = Callback(address, masks)
        elif kind == CALLBACK_nmi:
            _register_nmi(vcpu, address)
        else:
            raise Refusal(ENOSYS, f"callback type {kind} does not exist")
        return 0
    if command == CALLBACKOP_unregister:
        kind = int.from_bytes(vcpu.domain.guest.read(argument, 2), "little")
        if kind in (CALLBACK_event, CALLBACK_failsafe, CALLBACK_syscall, CALLBACK_syscall32, CALLBACK_sysenter):
            raise Refusal(EINVAL, f"callback type {kind} cannot be unregistered")
        if kind == CALLBACK_nmi:
            handlers.traps.pop(TRAP_NMI, None)
        else:
            raise Refusal(ENOSYS, f"callback type {kind} does not exist")
        return 0
    raise Refusal(ENOSYS, f"callback_op {command} does not exist")


def _register_nmi(vcpu: Vcpu, address: int) -> None:
    """The trap table's own entry, with events masked (register_guest_nmi_callback)."""
    vcpu.handlers.traps[TRAP_NMI] = TrapEntry(0, True, FLAT_KERNEL_CS, address)


def nmi_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    """XENNMI_register_callback (0) and XENNMI_unregister_callback (1): nobody sends NMIs but VCPUOP_send_nmi."""
    command &= xen.MASK32
    if command == 0:
        address = vcpu.domain.guest.read_u64(argument)
        _check_address(address)
        _register_nmi(vcpu, address)
        return 0
    if command == 1:
        vcpu.handlers.traps.pop(TRAP_NMI, None)
        return 0
    raise Refusal(ENOSYS, f"nmi_op {command} does not exist")


HYPERCALLS: Final = {"set_trap_table": set_trap_table, "set_callbacks": set_callbacks, "callback_op": callback_op, "nmi_op": nmi_op}
