"""sched_op, its compatible form, and set_timer_op (xen/common/sched/core.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL, ENOSPC, ENOSYS, EPERM, ESRCH
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_MAX_POLL: Final = 128
_HUGE_NS: Final = 1 << 50
_WRAPPED_NS: Final = 100_000_000


def sched_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    domain, guest, command = vcpu.domain, vcpu.domain.guest, command & xen.MASK32
    if command == xen.SCHEDOP_yield:
        domain.yield_slice()
    elif command == xen.SCHEDOP_block:
        block(vcpu)
    elif command == xen.SCHEDOP_shutdown:
        _shut_down(vcpu, guest.read_u32(argument))
    elif command == xen.SCHEDOP_poll:
        _poll(vcpu, argument)
    elif command == xen.SCHEDOP_remote_shutdown:
        other = guest.read_u32(argument) & 0xFFFF
        if not domain.domid_exists(other):
            raise Refusal(ESRCH, f"domain {other} does not exist")
        raise Refusal(EPERM, "only Domain-0 shuts others down")
    elif command == xen.SCHEDOP_pin_override:
        raise Refusal(EPERM, "only the hardware domain pins itself")
    elif command == xen.SCHEDOP_shutdown_code:
        _keep_code(vcpu, guest.read_u32(argument))
    elif command == xen.SCHEDOP_watchdog:
        return _watchdog(vcpu, guest.read_u32(argument), guest.read_u32(argument + 4))
    else:
        raise Refusal(ENOSYS, f"sched_op {command} does not exist")
    return 0


def _keep_code(vcpu: Vcpu, code: int) -> None:
    """The first reason a domain gives is the one that counts, of whatever follows (d->shutdown_code)."""
    domain = vcpu.domain
    if domain.shutdown_code < 0:
        domain.shutdown_code = code & 0xFF


def _shut_down(vcpu: Vcpu, code: int) -> None:
    _keep_code(vcpu, code)
    vcpu.domain.shutdown(reason_name(vcpu.domain.shutdown_code))


def reason_name(code: int) -> str:
    """What a guest gave as its reason, of which Xen keeps eight bits and believes any."""
    code &= 0xFF
    return xen.SHUTDOWN_REASONS[code] if code < len(xen.SHUTDOWN_REASONS) else f"reason {code}"


def block(vcpu: Vcpu) -> None:
    """vcpu_block_enable_events: unmask, and sleep unless an event is waiting."""
    vcpu.upcall_masked = False
    vcpu.domain.events.flush_late()
    if not vcpu.upcall_pending:
        vcpu.domain.block(vcpu)


def _poll(vcpu: Vcpu, argument: int) -> None:
    """Sleep until one of the ports is pending or the time has come (do_poll). The ports may stay masked."""
    domain, guest = vcpu.domain, vcpu.domain.guest
    domain.events.flush_late()
    ports_at, count, timeout = guest.read_u64(argument), guest.read_u32(argument + 8), guest.read_u64(argument + 16)
    if count > _MAX_POLL:
        raise Refusal(EINVAL, f"{count} ports to poll, {_MAX_POLL} at most")
    if vcpu.upcall_pending and not vcpu.upcall_masked:
        return
    ports = []
    for index in range(count):
        port = guest.read_u32(ports_at + 4 * index)
        if port >= domain.events.valid:
            raise Refusal(EINVAL, f"port {port} does not exist")
        if domain.events.pending(port):
            return
        ports.append(port)
    if timeout and timeout <= domain.clock.now():
        return
    vcpu.polled = frozenset(ports)
    vcpu.poll_deadline = timeout
    domain.block(vcpu)


def _watchdog(vcpu: Vcpu, number: int, seconds: int) -> int:
    """domain_watchdog: ends the domain when it is not set again in time. Returns the number of a new one."""
    watchdogs = vcpu.domain.time.watchdogs
    deadline = vcpu.domain.clock.now() + seconds * 1_000_000_000
    if number > len(watchdogs):
        raise Refusal(EINVAL, f"watchdog {number} does not exist")
    if number == 0:
        free = next((index for index, at in enumerate(watchdogs) if not at), None)
        if free is None:
            raise Refusal(ENOSPC, f"all {len(watchdogs)} watchdogs are in use")
        watchdogs[free] = deadline
        vcpu.domain.clock.shorten(deadline)
        return free + 1
    if not watchdogs[number - 1]:
        raise Refusal(EINVAL, f"watchdog {number} is not in use")
    watchdogs[number - 1] = deadline if seconds else 0
    return 0


def sched_op_compat(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    """The older interface: shutdown's reason is the argument itself."""
    command &= xen.MASK32
    if command == xen.SCHEDOP_shutdown:
        _shut_down(vcpu, argument)
        return 0
    if command in (xen.SCHEDOP_yield, xen.SCHEDOP_block):
        return sched_op(vcpu, command, argument)
    raise Refusal(ENOSYS, f"sched_op_compat {command} does not exist")


def set_timer_op(vcpu: Vcpu, deadline: int, *_: int) -> int:
    """The singleshot timer by absolute system time; 0 stops it. A time in the past fires at once. One that is negative or more than
    13 days ahead comes from a counter that wrapped: Xen's middle way between at once and never is 100 ms."""
    now = vcpu.domain.clock.now()
    if deadline >= 1 << 63 or deadline - now >= _HUGE_NS:
        deadline = now + _WRAPPED_NS
    vcpu.timers.singleshot = deadline
    vcpu.domain.time.timer_changed()
    return 0


HYPERCALLS: Final = {"sched_op": sched_op, "sched_op_compat": sched_op_compat, "set_timer_op": set_timer_op}
