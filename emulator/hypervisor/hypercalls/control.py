"""multicall, vm_assist, physdev_op."""

from __future__ import annotations

from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi.errno import EINVAL, ENOSYS, EPERM
from emulator.abi.xen import (
    HYPERCALL_NUMBER,
    HYPERVISOR_VIRT_END,
    MASK32,
    PHYSDEVOP_IRQ_UNMASK_NOTIFY,
    PHYSDEVOP_eoi,
    PHYSDEVOP_irq_status_query,
    PHYSDEVOP_set_iobitmap,
    PHYSDEVOP_set_iopl,
    PHYSDEVOP_setup_gsi,
    VMASST_TYPE_m2p_strict,
    XENIRQSTAT_needs_eoi,
)
from emulator.hypervisor import crossing, hypercalls
from emulator.hypervisor.iret import iret
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_PIECE: Final = 256
_CALL_WORK: Final = 4  # of the domain's allowance (memory/promotion), for each call
_ENTRY: Final = Struct("<Qq6Q")  # struct multicall_entry: op result args[6]
_ASSISTS: Final = 0x3F | 1 << VMASST_TYPE_m2p_strict  # PV64_VM_ASSIST_MASK: some are without effect on 64-bit guests, none is refused
_PHYSDEV_OF_DOMAIN0: Final = frozenset((8, 9, 10, 13, 14, 15, 17, 19, 20, 23, 24, 25, 26, 27, 28, 29, 30))
"""APICs, vectors, PCI devices, MSIs, the debug port (physdev.h)."""
_IOBMP_BYTES: Final = 8192
GSIS: Final = 24
"""Interrupts of an I/O APIC (nr_irqs_gsi)."""
PIRQS: Final = GSIS + 32
"""Numbers that a domain has for physical interrupts: those and extra_domU_irqs."""
_IRET: Final = HYPERCALL_NUMBER["iret"]
_MULTICALL: Final = HYPERCALL_NUMBER["multicall"]


def multicall(vcpu: Vcpu, calls: int, count: int, *_: int) -> int:
    """do_multicall: each entry's result is written back; a fault on the list itself ends it with -EFAULT. What puts the vCPU to
    sleep lets the rest wait; iret ends it, with the guest's RAX as its result."""
    domain, guest = vcpu.domain, vcpu.domain.guest
    size = _ENTRY.size
    count &= MASK32
    for index in range(count):
        at = calls + index * size
        if index == _PIECE or (index and domain.tables.allowance <= 0):
            raise Preempted(at, count - index)
        domain.tables.allowance -= _CALL_WORK
        number, _result, *arguments = _ENTRY.unpack(guest.read(at, size))
        if number == _IRET:
            rax, _by_sysret = iret(vcpu)
            with suppress(Refusal):  # the list may lie out of reach by now; Xen leaves it then, too
                guest.write(at + 8, (rax & (1 << 64) - 1).to_bytes(8, "little"))
            return rax
        try:
            result = _one(vcpu, number, arguments)
        except Preempted as preempted:  # the entry itself says what is left of it
            guest.write(at + 16, b"".join((value & (1 << 64) - 1).to_bytes(8, "little") for value in preempted.arguments))
            raise Preempted(at, count - index) from None
        guest.write(at + 8, (result & (1 << 64) - 1).to_bytes(8, "little"))
        if domain.ended:
            break
        if vcpu.blocked and index + 1 < count:
            raise Preempted(at + size, count - index - 1)
    return 0


def _one(vcpu: Vcpu, number: int, arguments: list[int]) -> int:
    handlers = hypercalls.HANDLERS
    handler = handlers[number] if number < len(handlers) else None
    if handler is None:
        return -ENOSYS
    if number == _MULTICALL:  # no nesting: mc_state.flags
        return -EINVAL
    vcpu.domain.stats.by_number[number] += 1
    try:
        a, b, c, d, e, f = arguments
        result = handler(vcpu, a, b, c, d, e, f)
    except Refusal as refusal:
        vcpu.domain.refused(f"multicall {number}", refusal)
        return -refusal.errno
    return result


def vm_assist(vcpu: Vcpu, command: int, kind: int, *_: int) -> int:
    """Enable (0) or disable (1) an assist that PV guests know (arch_vm_assist_valid_mask)."""
    command, kind = command & MASK32, kind & MASK32
    if kind > 63 or not _ASSISTS >> kind & 1:
        raise Refusal(EINVAL, f"vm_assist {kind} is not for PV guests")
    if command == 0:
        vcpu.domain.vm_assist |= 1 << kind
    elif command == 1:
        vcpu.domain.vm_assist &= ~(1 << kind)
    else:
        raise Refusal(ENOSYS, f"vm_assist command {command} does not exist")
    vcpu.domain.tables.m2p_strict = bool(vcpu.domain.vm_assist >> VMASST_TYPE_m2p_strict & 1)
    vcpu.refresh_io_rights()
    crossing.allow(vcpu.domain)
    return 0


def physdev_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    guest, command = vcpu.domain.guest, command & MASK32
    if command == PHYSDEVOP_set_iopl:
        level = guest.read_u32(argument)
        if level > 3:
            raise Refusal(EINVAL, f"I/O privilege level {level} does not exist")
        vcpu.iopl = level << 12
        vcpu.refresh_io_rights()
        return 0
    if command == PHYSDEVOP_set_iobitmap:
        bitmap, ports = guest.read_u64(argument), guest.read_u32(argument + 8)
        if ports > 65536 or (bitmap + _IOBMP_BYTES - 1 >= 1 << 47 and bitmap < HYPERVISOR_VIRT_END):
            raise Refusal(EINVAL, f"a bitmap of {ports} ports at {bitmap:#x}: there are 65536")
        vcpu.io_bitmap, vcpu.io_ports = bitmap, ports
        return 0
    if command == PHYSDEVOP_IRQ_UNMASK_NOTIFY:
        return 0  # for all interrupts of the domain: it has none
    if command in (PHYSDEVOP_eoi, PHYSDEVOP_irq_status_query, PHYSDEVOP_setup_gsi):
        interrupt = guest.read_u32(argument)
        if command == PHYSDEVOP_irq_status_query and interrupt < PIRQS:
            guest.write_u32(argument + 4, XENIRQSTAT_needs_eoi)
            return 0
        not_allowed = command == PHYSDEVOP_setup_gsi and interrupt < GSIS
        raise Refusal(EPERM if not_allowed else EINVAL, f"interrupt {interrupt} is not this domain's")
    raise Refusal(EPERM if command in _PHYSDEV_OF_DOMAIN0 else ENOSYS, f"physdev_op {command}: no physical device is this domain's")


def physdev_op_compat(vcpu: Vcpu, argument: int, *_: int) -> int:
    """struct physdev_op: the command in its first 32 bits, the command's structure at 8 (xen/arch/x86/compat.c)."""
    return physdev_op(vcpu, vcpu.domain.guest.read_u32(argument), argument + 8)


HYPERCALLS: Final = {"multicall": multicall, "vm_assist": vm_assist, "physdev_op": physdev_op, "physdev_op_compat": physdev_op_compat}
