"""vcpu_op (xen/common/domain.c, do_vcpu_op): timers, run state, the place of vcpu_info."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EEXIST, EFAULT, EINVAL, ENOENT, ENOSYS, ENXIO, ETIME
from emulator.hypervisor.context import CONTEXT_BYTES, set_info
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_MIN_PERIOD_NS: Final = 1_000_000
_INITIALISE_WORK: Final = 300  # of the domain's allowance (memory/promotion)


def vcpu_op(vcpu: Vcpu, command: int, number: int, argument: int, *_: int) -> int:
    domain, guest = vcpu.domain, vcpu.domain.guest
    command, number = command & xen.MASK32, number & xen.MASK32
    if number >= len(domain.vcpus):
        raise Refusal(ENOENT, f"vCPU {number} does not exist")
    target = domain.vcpus[number]
    if command == xen.VCPUOP_set_singleshot_timer:
        _own(vcpu, number)
        deadline, flags = guest.read_u64(argument), guest.read_u32(argument + 8)
        if flags & xen.VCPU_SSHOTTMR_future and deadline < domain.clock.now():
            raise Refusal(ETIME, f"timer at {deadline} ns lies in the past")
        target.timers.singleshot = max(1, deadline)  # 0 would be none
        domain.time.timer_changed()
    elif command == xen.VCPUOP_stop_singleshot_timer:
        _own(vcpu, number)
        target.timers.singleshot = 0
    elif command == xen.VCPUOP_is_up:
        return int(target.up)
    elif command == xen.VCPUOP_get_runstate_info:
        guest.write(argument, domain.time.runstate(target))
    elif command == xen.VCPUOP_register_runstate_memory_area:
        target.runstate_area = _area(guest.read_u64(argument))
        domain.time.update_runstate_area(target)
    elif command == xen.VCPUOP_set_periodic_timer:
        period = guest.read_u64(argument)
        if period < _MIN_PERIOD_NS:
            raise Refusal(EINVAL, f"a period of {period} ns is shorter than {_MIN_PERIOD_NS}")
        if period >= 1 << 62:  # STIME_DELTA_MAX
            raise Refusal(EINVAL, f"a period of {period} ns is too long")
        target.timers.period = period
        domain.time.timer_changed()
    elif command == xen.VCPUOP_stop_periodic_timer:
        target.timers.period = 0
    elif command == xen.VCPUOP_register_vcpu_info:
        _move_info(target, guest.read_u64(argument), guest.read_u32(argument + 8))
    elif command == xen.VCPUOP_register_vcpu_time_memory_area:
        target.time_area = _area(guest.read_u64(argument))
        domain.time.update_time_area(target)
    elif command == xen.VCPUOP_initialise:
        _initialise(target, argument)
    elif command == xen.VCPUOP_up:
        _up(target)
    elif command == xen.VCPUOP_down:
        _down(target)
    elif command == xen.VCPUOP_send_nmi:
        if argument:
            raise Refusal(EINVAL, "an NMI takes no argument")
        target.nmi_pending = True
        target.wake()
        domain.rotation.fresh = True
        domain.core.stop()  # looked at when a turn begins
    elif command == xen.VCPUOP_get_physid:
        raise Refusal(EINVAL, "only a pinned hardware domain sees physical CPUs (is_hwdom_pinned_vcpu)")
    else:
        raise Refusal(ENOSYS, f"vcpu_op {command} does not exist")
    return 0


def _initialise(vcpu: Vcpu, argument: int) -> None:
    if not vcpu.info:
        raise Refusal(EINVAL, f"vCPU {vcpu.number} has no vcpu_info: register one first")
    data = vcpu.domain.guest.read(argument, CONTEXT_BYTES)
    if vcpu.initialised:
        raise Refusal(EEXIST, f"vCPU {vcpu.number} is initialised already")
    vcpu.domain.tables.allowance -= _INITIALISE_WORK
    set_info(vcpu, data)
    vcpu.domain.time.runstate_changed(vcpu)


def _up(vcpu: Vcpu) -> None:
    if not vcpu.initialised:
        raise Refusal(EINVAL, f"vCPU {vcpu.number} is not initialised")
    if not vcpu.up:
        vcpu.up = True
        vcpu.domain.time.runstate_changed(vcpu)
        vcpu.domain.rotation.woke()


def _down(vcpu: Vcpu) -> None:
    """The last one that goes down takes the domain with it."""
    domain = vcpu.domain
    if not any(other.up for other in domain.vcpus if other is not vcpu):
        domain.shutdown("poweroff")
    elif vcpu.up:
        vcpu.up = False
        domain.time.runstate_changed(vcpu)
        if vcpu is domain.current:
            domain.core.stop()


def _area(address: int) -> int:
    """An address that may be the guest's (guest_handle_okay), mapped or not; 0: nowhere."""
    if 1 << 47 <= address < xen.HYPERVISOR_VIRT_END:
        raise Refusal(EFAULT, f"an area at {address:#x}")
    return address


def _own(vcpu: Vcpu, number: int) -> None:
    if number != vcpu.number:
        raise Refusal(EINVAL, f"vCPU {vcpu.number} sets timers of vCPU {number}")


def _move_info(vcpu: Vcpu, mfn: int, offset: int) -> None:
    """map_vcpu_info: vcpu_info moves to a page of the guest's, once. vCPUs above 31 have none before."""
    domain = vcpu.domain
    if offset > 4096 - xen.VCPU_INFO_SIZE or offset & 7:
        raise Refusal(ENXIO, f"vcpu_info at offset {offset:#x} of its page")
    if vcpu.info and vcpu.info >> 12 != domain.layout.shared_info_mfn:
        raise Refusal(EINVAL, f"vcpu_info of vCPU {vcpu.number} was moved already")
    if vcpu is not domain.current and vcpu.up:
        raise Refusal(EINVAL, f"vcpu_info of vCPU {vcpu.number}, which is up and not the caller")
    domain.tables.get_type(mfn, domain.WRITABLE)
    memory = domain.memory.bytes
    new = (mfn << 12) + offset
    if vcpu.info:
        memory[new : new + xen.VCPU_INFO_SIZE] = memory[vcpu.info : vcpu.info + xen.VCPU_INFO_SIZE]
    else:
        memory[new : new + xen.VCPU_INFO_SIZE] = domain.time.blank_info()
    vcpu.info = new
    memory[new + xen.VI_UPCALL_PENDING] = 1  # whatever was signalled meanwhile is looked at again
    domain.memory.words[(new + xen.VI_PENDING_SEL) >> 3] = (1 << 64) - 1


HYPERCALLS: Final = {"vcpu_op": vcpu_op}
