"""Hypercalls: what is not there, what is not allowed, lists that fail half way, and the mailbox that brings the outside in."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi.errno import EACCES, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF, HYPERCALL_NUMBER, HYPERCALLS
from emulator.cpu.core import R11, RAX, RCX, RSP
from emulator.cpu.native import VECTOR_SYSCALL
from emulator.hypervisor.channels import Signal
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.mailbox import Cut, Level, Logged, ToBackend
from emulator.hypervisor.trace import Trace
from tests.patience import meanwhile
from tests.unit.domains import CODE, DATA, FREE_SLOT, PT_L1, STACK, Tiny, tiny, va

POPULATE, DECREASE, CURRENT, MAXIMUM = 6, 1, 3, 4


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        yield made


# --- the table -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [11, 38, 43, 47, 49, 56, 63, 64, 1000, 1 << 31, (1 << 64) - 1])
def test_what_is_not_there_answers_enosys(guest: Tiny, number: int) -> None:
    assert guest.call(number, 1, 2, 3) == -ENOSYS
    assert guest.domain.ended == ""


@pytest.mark.parametrize("name", ["xenpmu_op", "argo_op"])
def test_what_xens_defaults_leave_off_is_off(guest: Tiny, name: str) -> None:
    assert guest.call(name, 1, va(DATA)) == -EOPNOTSUPP


def test_the_older_form_of_physdev_op(guest: Tiny) -> None:
    assert guest.call("physdev_op_compat", guest.put(DATA, struct.pack("<QI", 6, 3))) == 0
    assert guest.domain.current.iopl == 3 << 12
    assert guest.call("physdev_op_compat", guest.put(DATA, struct.pack("<QI", 6, 4))) == -EINVAL
    assert guest.call_with("physdev_op", 7, "QI", va(DATA), 65536) == 0
    assert guest.call_with("physdev_op", 7, "QI", va(DATA), 65537) == -EINVAL
    assert [guest.call_with("physdev_op", 7, "QI", at, 8) for at in (0xFFFF800000000000, (1 << 47) - 8191, 1 << 63)] == [-EINVAL] * 3


@pytest.mark.parametrize(("name", "version"), [("domctl", 0x15), ("sysctl", 0x15), ("platform_op", 0x03000001)])
def test_what_only_domain_0_may_is_refused(guest: Tiny, name: str, version: int) -> None:
    assert guest.call(name, guest.put(DATA, struct.pack("<II136x", 5, version))) == -EPERM
    assert guest.call(name, guest.put(DATA, struct.pack("<II136x", 5, version + 1))) == -EACCES
    assert guest.call(name, va(FREE_SLOT)) == -EFAULT
    assert guest.call("hypfs_op") == guest.call("kexec_op") == guest.call("mca") == -EPERM


def test_a_domctl_is_for_a_domain_that_exists(guest: Tiny) -> None:
    asked = [(3, 99), (3, 0), (3, 1), (3, 0x7FF0), (1, 99), (5, 99)]  # pausedomain, createdomain, getdomaininfo
    assert [guest.call("domctl", guest.put(DATA, struct.pack("<IIH134x", command, 0x15, domid))) for command, domid in asked] == [
        -ESRCH, -EPERM, -EPERM, -ESRCH, -EPERM, -EPERM]  # fmt: skip


def test_a_hypercall_by_syscall_goes_on_behind_it(guest: Tiny) -> None:
    core = guest.domain.core
    core.regs[RCX], core.regs[R11], core.regs[RSP] = 5, 6, va(STACK, 2048)
    core.regs[7] = 0  # XENVER_version
    guest.run("b811000000 0f05 ebfe")
    assert core.rip == va(CODE, 7)
    assert core.regs[RAX] == 4 << 16 | 17
    assert core.regs[RSP] == va(STACK, 2048)
    assert guest.domain.stats.hypercalls == 1
    assert guest.domain.stats.by_number[17] == 1


def test_hypercalls_cost_time(guest: Tiny) -> None:
    before = guest.domain.clock.now()
    guest.call("xen_version", 0)
    assert 1_000 <= guest.domain.clock.now() - before <= 20_000


TELLING = [va(DATA), va(DATA, 4090), va(FREE_SLOT), va(PT_L1), DOMID_SELF]
ARGUMENT = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 40), st.sampled_from(TELLING))
FATAL = {"iret", "sched_op", "sched_op_compat"}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(set(HYPERCALL_NUMBER) - FATAL)), st.lists(ARGUMENT, min_size=6, max_size=6), st.binary(min_size=64, max_size=64))
def test_no_arguments_get_past_an_errno(name: str, arguments: list[int], structure: bytes) -> None:
    """Counts are kept small: a long list of a guest's is a matter of time, not of safety."""
    if name in ("mmu_update", "mmuext_op", "multicall", "console_io", "update_va_mapping"):
        arguments[1] &= 0xFF
    with tiny() as guest:
        guest.put(DATA, structure)
        result = guest.call(name, *arguments)
        assert result > -4096
        assert guest.domain.ended in ("", "crash")
        guest.domain.slice(20_000)


# --- multicall ---------------------------------------------------------------------------------------------------------------


def multicall(guest: Tiny, *calls: tuple[str | int, tuple[int, ...]], at: int = DATA) -> list[int]:
    """The result of each."""
    entries = b""
    for name, arguments in calls:
        number = HYPERCALL_NUMBER[name] if isinstance(name, str) else name
        entries += struct.pack("<QQ6Q", number, 0x5555, *(*arguments, *[0] * (6 - len(arguments))))
    assert guest.call("multicall", guest.put(at, entries), len(calls)) == 0
    data = guest.get(at, 64 * len(calls))
    return [struct.unpack_from("<q", data, 64 * index + 8)[0] for index in range(len(calls))]


def test_a_multicall_goes_on_after_a_failure_and_tells_each_result(guest: Tiny) -> None:
    version = ("xen_version", (0,))
    found = multicall(guest, version, ("hypfs_op", ()), (99, ()), ("xen_version", (1, va(FREE_SLOT))), version)
    assert found == [4 << 16 | 17, -EPERM, -ENOSYS, -EFAULT, 4 << 16 | 17]


def test_multicalls_do_not_nest(guest: Tiny) -> None:
    assert multicall(guest, ("multicall", (va(DATA), 1)))[0] == -EINVAL


def test_iret_ends_a_multicall(guest: Tiny) -> None:
    """pv_do_multicall_call: mc_exit, the guest's RAX is the result and nothing behind it is done."""
    frame = struct.pack("<9Q", 0x77, 0x11, 0xCC, 0, va(CODE, 0x40), 0xE030, 0x202, va(STACK, 4096), 0xE02B)
    guest.domain.core.regs[4] = guest.put(STACK, frame, 2048)
    entries = struct.pack("<8Q8Q", HYPERCALL_NUMBER["iret"], 0x5555, *[0] * 6, HYPERCALL_NUMBER["xen_version"], 0x5555, *[0] * 6)
    assert guest.call("multicall", guest.put(DATA, entries), 2) == 0x77
    assert guest.domain.core.rip == va(CODE, 0x40)
    assert [struct.unpack_from("<Q", guest.get(DATA, 128), at)[0] for at in (8, 72)] == [0x77, 0x5555]


def test_what_sleeps_in_a_multicall_leaves_the_rest_for_later(guest: Tiny) -> None:
    entries = struct.pack("<8Q8Q", HYPERCALL_NUMBER["sched_op"], 0x5555, 1, *[0] * 5, HYPERCALL_NUMBER["xen_version"], 0x5555, *[0] * 6)
    at, core, rip = guest.put(DATA, entries), guest.domain.core, guest.domain.core.rip
    core.regs[0], core.regs[7], core.regs[6] = HYPERCALL_NUMBER["multicall"], at, 2
    core.on_trap(VECTOR_SYSCALL)
    assert guest.domain.current.blocked and core.rip == rip, "it is issued again when the vCPU wakes"
    assert (core.regs[0], core.regs[7], core.regs[6]) == (HYPERCALL_NUMBER["multicall"], at + 64, 1)
    guest.domain.current.wake()
    core.on_trap(VECTOR_SYSCALL)
    assert core.regs[0] == 0 and struct.unpack_from("<Q", guest.get(DATA, 128), 72)[0] == 4 << 16 | 17


def test_versions_answers_are_xens(guest: Tiny) -> None:
    """do_xen_version: what a guest may not know is "<denied>" or -EPERM; there is one map of features."""
    assert guest.call("xen_version", 9, guest.put(DATA, b"?" * 32)) == 0
    assert guest.get(DATA, 9) == b"<denied>\0"
    assert guest.call("xen_version", 10, 0) == -EPERM
    assert guest.call("xen_version", 7, 0) == 4096
    assert guest.call("xen_version", 7, va(DATA)) == -EINVAL
    assert guest.call("xen_version", 6, guest.put(DATA, struct.pack("<II", 1, 0))) == -EINVAL
    assert guest.call("xen_version", 6, guest.put(DATA, struct.pack("<II", 0, 0))) == 0
    assert struct.unpack("<II", guest.get(DATA, 8))[1] == 1 << 5 | 1 << 6 | 1 << 7 | 1 << 13 | 1 << 17


def test_set_callbacks_leaves_out_what_is_not_canonical(guest: Tiny) -> None:
    """do_set_callbacks does not look at what register_guest_callback says."""
    assert guest.call("set_callbacks", va(CODE), 1 << 63, va(CODE, 8)) == 0
    handlers = guest.domain.current.handlers
    assert (handlers.event.address, handlers.failsafe.address, handlers.syscall.address) == (va(CODE), 0, va(CODE, 8))


def test_a_trap_table_may_be_longer_than_one_piece_of_work(guest: Tiny) -> None:
    table = b"".join(struct.pack("<BBHxxxxQ", index & 255, 0, 0xE033, va(CODE, index)) for index in range(300)) + bytes(16)
    guest.put(DATA, table[:4096])
    guest.put(DATA + 1, table[4096:])
    assert guest.call("set_trap_table", va(DATA)) == 0
    assert guest.domain.current.handlers.traps[43].address == va(CODE, 299)


def test_the_upper_half_of_an_int_does_not_count(guest: Tiny) -> None:
    """A kernel in assembly leaves there whatever was in the register."""
    high = 0xDEADBEEF << 32
    assert guest.call("xen_version", high) == 4 << 16 | 17
    assert guest.call("vm_assist", high, high | 5) == 0
    assert guest.call("set_debugreg", high | 1, va(CODE)) == 0
    assert guest.call("get_debugreg", high | 1) == va(CODE)
    assert guest.call("set_segment_base", high, 0x1000) == 0
    assert guest.call_with("callback_op", high, "HHxxxxQ", 2, 0, va(CODE)) == 0
    assert guest.call_with("event_channel_op", high | 7, "II", 0, 0) == 0
    assert guest.call_with("physdev_op", high | 6, "I", 1) == 0
    assert guest.call("fpu_taskswitch", high) == 0
    assert not guest.domain.core.task_switched
    assert guest.call("vcpu_op", high | 3, 0) == 1
    assert guest.call("sched_op", high, 0) == guest.call("sched_op_compat", high, 0) == 0


def test_physical_devices_are_domain_0s(guest: Tiny) -> None:
    """do_physdev_op with no interrupt of its own."""
    buffer = guest.put(DATA, bytes(64))
    expected = {4: 0, 12: -EINVAL, 5: 0, 21: -EPERM, 8: -EPERM, 13: -EPERM, 25: -EPERM, 18: -ENOSYS, 99: -ENOSYS}
    assert {command: guest.call("physdev_op", command, buffer) for command in expected} == expected
    assert guest.get(DATA, 8) == struct.pack("<II", 0, 1), "XENIRQSTAT_needs_eoi"
    assert [guest.call_with("physdev_op", command, "II", 99, 0) for command in (5, 21)] == [-EINVAL, -EINVAL]


def test_a_multicall_over_the_end_of_memory_does_what_it_could(guest: Tiny) -> None:
    entry = struct.pack("<QQ6Q", HYPERCALL_NUMBER["xen_version"], 0x5555, *[0] * 6)
    guest.put(255, entry * 2, 4096 - 128)
    slot = va(300)
    assert guest.update((guest.entry_address(300), guest.mfn(255) << 12 | 7))[0] == 0
    assert guest.call("multicall", slot + 4096 - 128, 3) == -EFAULT
    assert struct.unpack("<q", guest.get(255, 8, 4096 - 128 + 8)) == (4 << 16 | 17,)
    assert struct.unpack("<q", guest.get(255, 8, 4096 - 64 + 8)) == (4 << 16 | 17,)


def test_a_shutdown_in_a_multicall_ends_it(guest: Tiny) -> None:
    guest.put(DATA, struct.pack("<I", 0), 2048)
    found = multicall(guest, ("sched_op", (2, va(DATA, 2048))), ("xen_version", (0,)))
    assert guest.domain.ended == "poweroff"
    assert found[1] == 0x5555


# --- memory ------------------------------------------------------------------------------------------------------------------


def reservation(guest: Tiny, command: int, frames: list[int], order: int = 0, domid: int = DOMID_SELF) -> int:
    guest.put(DATA, struct.pack(f"<{len(frames)}Q", *frames), 512)
    return guest.call_with("memory_op", command, "QQIIHxxxxxx", va(DATA, 512), len(frames), order, 0, domid)


def test_frames_given_back_are_gone_and_may_come_again(guest: Tiny) -> None:
    domain = guest.domain
    owned = guest.call_with("memory_op", CURRENT, "H", DOMID_SELF)
    mfn = guest.mfn(100)
    assert reservation(guest, DECREASE, [mfn]) in (0, 1)  # it is mapped: Xen lets it go with its last use
    assert guest.update((guest.entry_address(100), 0)) == (0, 1)
    if domain.frames.owned(mfn):
        assert reservation(guest, DECREASE, [mfn]) == 1
    assert not domain.frames.owned(mfn)
    assert guest.call_with("memory_op", CURRENT, "H", DOMID_SELF) == owned - 1
    assert guest.update((guest.entry_address(FREE_SLOT), mfn << 12 | 7))[0] < 0, "it is nobody's now"
    assert reservation(guest, DECREASE, [mfn]) == 0
    assert reservation(guest, POPULATE, [100]) == 1
    new = int.from_bytes(guest.get(DATA, 8, 512), "little")
    assert domain.layout.pfn_of(new) == 100
    assert guest.update((guest.entry_address(100), new << 12 | 7)) == (0, 1)
    assert domain.memory.frame(new) == bytes(4096)
    assert reservation(guest, POPULATE, [101]) == 0, "the domain is at its maximum"


def test_what_is_in_use_or_anothers_is_not_given_back(guest: Tiny) -> None:
    layout = guest.domain.layout
    for mfn in (guest.mfn(PT_L1), layout.gdt_mfn, 0, guest.domain.memory.frames, 1 << 50):
        owner = guest.domain.frames.owner[mfn] if mfn < guest.domain.frames.frames else None
        reservation(guest, DECREASE, [mfn])
        assert owner is None or guest.domain.frames.owner[mfn] == owner
    guest.check_counts()
    assert guest.update((guest.entry_address(CODE), guest.entry(CODE))) == (0, 1), "the tables still work"


def test_other_domains_memory_is_refused(guest: Tiny) -> None:
    for domid in (0, 77):
        assert reservation(guest, DECREASE, [guest.mfn(100)], domid=domid) <= 0, "none was done"
        assert reservation(guest, POPULATE, [1], domid=domid) <= 0
    assert guest.domain.frames.owned(guest.mfn(100))
    assert guest.call_with("memory_op", MAXIMUM, "H", 0) in (-ESRCH, -EPERM)
    assert guest.call_with("memory_op", 62, "Q", 0) == -ENOSYS
    assert guest.call("memory_op", CURRENT, va(FREE_SLOT)) == -EFAULT


def test_the_memory_map_is_one_area(guest: Tiny) -> None:
    guest.put(DATA, bytes(64), 512)
    assert guest.call_with("memory_op", 9, "IxxxxQ", 4, va(DATA, 512)) == 0
    assert guest.get(DATA, 4) == (1).to_bytes(4, "little")
    assert struct.unpack("<QQI", guest.get(DATA, 20, 512)) == (0, 256 << 12, 1)


# --- shutdown, console, version, trace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "ended"), [(0, "poweroff"), (1, "reboot"), (3, "crash")])
def test_shutdown(guest: Tiny, reason: int, ended: str) -> None:
    assert guest.call_with("sched_op", 2, "I", reason) == 0
    assert guest.domain.ended == ended
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == va(CODE, 2), "an ended domain runs no further"


def test_console_io(guest: Tiny) -> None:
    said: list[bytes] = []
    guest.domain.sinks.console_io = said.append
    assert guest.call("console_io", 0, 5, guest.put(DATA, b"hello world")) == 0
    assert guest.call("console_io", 0, 8000, va(DATA)) == 0
    assert b"".join(said) == b"hello" + guest.get(DATA, 4096) + guest.get(DATA + 1, 8000 - 4096)
    assert guest.call("console_io", 0, 10, va(FREE_SLOT)) == -EFAULT
    assert guest.call("console_io", 1, 10, va(DATA)) == 0
    assert guest.call("console_io", 9, 10, va(DATA)) == -ENOSYS


def test_xen_version(guest: Tiny) -> None:
    assert guest.call("xen_version", 0) == 4 << 16 | 17
    assert guest.call("xen_version", 3, va(DATA)) == 0
    assert guest.get(DATA, 16) == b"xen-3.0-x86_64\0\0" or guest.get(DATA, 15).rstrip(b"\0 ") == b"xen-3.0-x86_64"
    assert guest.call("xen_version", 8, va(DATA)) == 0
    assert guest.get(DATA, 16) == bytes(range(16))
    assert guest.call("xen_version", 77, va(DATA)) == -ENOSYS
    assert guest.call("xen_version", 3, va(PT_L1)) == -EFAULT


def test_the_trace_tells_calls_and_why_they_failed(guest: Tiny) -> None:
    guest.domain.trace = Trace()
    guest.call("xen_version", 0)
    guest.call("domctl", guest.put(DATA, struct.pack("<II136x", 1, 0x15)))
    names = [event.name for event in guest.domain.trace.events]
    assert "xen_version" in names
    assert any("domctl" in name for name in names)
    assert any("Domain-0" in event.reason for event in guest.domain.trace.events)


# --- mailbox -----------------------------------------------------------------------------------------------------------------


def test_messages_are_logged_with_their_place_and_questions_are_not(guest: Tiny) -> None:
    domain = guest.domain
    domain.recording = []
    seen: list[bytes] = []
    domain.receivers["test"] = seen.append
    guest.run("ebfe", budget=10_000)
    place = domain.clock.count
    domain.post(ToBackend("test", b"one"))
    answer = domain.ask(lambda: domain.core.rip)
    domain.post(Signal(2, 1, 7))
    assert not seen, "nothing is applied before a slice"
    domain.slice(10_000)
    assert answer.result(0) == va(CODE)
    assert seen == [b"one"]
    assert [entry for entry in domain.recording if not isinstance(entry.message, (Cut, Level))] == [
        Logged(place, ToBackend("test", b"one")), Logged(place, Signal(2, 1, 7)),
    ]  # fmt: skip


def test_a_question_that_fails_is_its_askers_and_the_domain_goes_on(guest: Tiny) -> None:
    answer = guest.domain.ask(lambda: 1 // 0)
    guest.run("ebfe", budget=1000)
    with pytest.raises(ZeroDivisionError):
        answer.result(0)
    assert guest.domain.ended == ""


def test_questions_of_a_domain_that_closes_are_cancelled() -> None:
    with tiny() as guest:
        answer = guest.domain.ask(lambda: 1)
    with pytest.raises(CancelledError):
        answer.result(0)


def test_a_post_from_another_thread_ends_the_slice_soon(guest: Tiny) -> None:
    seen = threading.Event()
    guest.domain.receivers["test"] = lambda data: seen.set()
    with meanwhile(lambda: guest.domain.post(ToBackend("test", b""))):
        guest.run("ebfe", budget=1 << 60)
    guest.domain.slice(1000)
    assert seen.is_set()


def test_a_paused_domain_answers_but_does_not_run(guest: Tiny) -> None:
    guest.domain.paused = 1
    answer = guest.domain.ask(lambda: 5)
    guest.run("90 ebfe")
    assert answer.result(0) == 5
    assert guest.domain.core.rip == va(CODE)
    guest.domain.paused = 0
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == va(CODE, 1)


def test_every_name_of_the_table_is_known() -> None:
    assert len(HYPERCALLS) > 40
    assert Domain.trap_name(14) == "#PF"
