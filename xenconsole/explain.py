"""What the fields of the screens mean and what Xen calls them: the one table behind "explain this".

A key is `group:name`. Headers are those of Xen 4.17's public interface (`public/…`), structures of Xen's own code where the
public headers have no word. A row is `key = title`, then what it means, then after `>` where Xen names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from xenconsole import explain_devices, explain_sharing


@dataclass(frozen=True)
class Explanation:
    """A field in a sentence or two, and where Xen names it."""

    title: str
    text: str
    source: str


_REGISTERS = "struct cpu_user_regs, public/arch-x86/xen-x86_64.h"

_GENERAL = {
    "rax": "Hypercall number on entry, answer on return.",
    "rdi": "First argument of a hypercall.",
    "rsi": "Second argument of a hypercall; at a kernel's first instruction the address of start_info.",
    "rdx": "Third argument of a hypercall.",
    "r10": "Fourth argument of a hypercall.",
    "r8": "Fifth argument of a hypercall.",
    "rcx": "Destroyed by a hypercall: syscall keeps the return address here.",
    "r11": "Destroyed by a hypercall: syscall keeps the flags here.",
    "rbp": "Frame pointer, where the compiler keeps one.",
}

_TABLE = """\
# registers
reg:rip = rip — instruction pointer
    Where the vCPU goes on: an address of the guest, translated by its own page tables.
    > struct cpu_user_regs, public/arch-x86/xen-x86_64.h
reg:rsp = rsp — stack pointer
    Top of the stack in use. The guest names its kernel stack to Xen by stack_switch, for traps out of user mode.
    > struct cpu_user_regs, public/arch-x86/xen-x86_64.h
reg:rflags = rflags — flags
    Arithmetic flags, TF for single steps. IF always shows set: a PV guest masks events in memory, not with cli.
    > struct cpu_user_regs, public/arch-x86/xen-x86_64.h
reg:cs = cs — code segment
    0xe033 is Xen's flat 64-bit ring-3 segment: kernel and user of a PV guest both run in ring 3.
    > FLAT_RING3_CS64, public/arch-x86/xen-x86_64.h
reg:ss = ss — stack segment
    0xe02b is Xen's flat ring-3 data segment.
    > FLAT_RING3_SS64, public/arch-x86/xen-x86_64.h
reg:cr0 = cr0 — control register 0
    Virtual: a guest's writes are trapped and only TS is taken.
    > vcpu_guest_context.ctrlreg[0], public/arch-x86/xen.h
reg:cr2 = cr2 — page fault address
    The address of the last page fault, given to the guest in its vcpu_info.
    > struct arch_vcpu_info.cr2, public/arch-x86/xen-x86_64.h
reg:cr3 = cr3 — page table base
    Machine frame of the L4 table, pinned and checked by Xen. Kernel and user mode have one each.
    > MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, public/xen.h
reg:cr4 = cr4 — control register 4
    Virtual: the guest may move only the bits that Xen leaves to it.
    > vcpu_guest_context.ctrlreg[4], public/arch-x86/xen.h
reg:fs_base = fs_base — FS base
    Base of FS; user programs keep their thread area there. Set by a hypercall.
    > SEGBASE_FS of set_segment_base, public/arch-x86/xen-x86_64.h
reg:gs_base = gs_base — GS base
    Base of GS in the present mode; Linux keeps its per-CPU area there while in the kernel.
    > SEGBASE_GS_KERNEL, public/arch-x86/xen-x86_64.h
reg:gs_base_user = gs_base_user — GS base of user mode
    Xen swaps it with the kernel's at each change of mode.
    > SEGBASE_GS_USER, public/arch-x86/xen-x86_64.h
# domain and vCPU states
state:r = r — running
    On a physical CPU now.
    > XEN_DOMINF_*, public/domctl.h; letters as in xl list
state:waiting = waiting
    Could run and has no CPU: others hold them, or have more credit. What it loses so is its steal.
    > RUNSTATE_runnable, public/vcpu.h
state:b = b — blocked
    Waits for an event: it gave up the CPU by sched_op(block) and an upcall will wake it.
    > SCHEDOP_block, public/sched.h
state:p = p — paused
    Gets no CPU time until it is unpaused; nothing in it moves, its clock does.
    > XEN_DOMINF_paused, public/domctl.h
state:s = s — shut down
    Ended by itself (poweroff, reboot, suspend) and is kept.
    > SCHEDOP_shutdown, public/sched.h
state:c = c — crashed
    Ended by a fault that it could not take, or said so itself.
    > SHUTDOWN_crash, public/sched.h
state:d = d — dying, or a vCPU that is down
    The domain's resources are being freed; a vCPU in this state is not up.
    > XEN_DOMINF_dying, public/domctl.h; VCPUOP_down, public/vcpu.h
vcpu:mode = mode — kernel or user
    Both run in ring 3; Xen keeps which of the two page tables and GS bases is in force.
    > TF_kernel_mode in Xen; VGCF_in_kernel, public/arch-x86/xen.h
vcpu:pending = upcall pending
    Some event waits for this vCPU. Xen sets the byte before it makes the upcall.
    > vcpu_info.evtchn_upcall_pending, public/xen.h
vcpu:mask = upcall mask
    The guest's interrupt flag: while set, Xen makes no upcall. cli and sti of a PV kernel are a store to this byte.
    > vcpu_info.evtchn_upcall_mask, public/xen.h
vcpu:timer = timer
    Deadline of the one-shot timer, in the guest's system time; VIRQ_TIMER is sent when it passes.
    > VCPUOP_set_singleshot_timer, public/vcpu.h; set_timer_op
vcpu:trap = last trap
    The last exception that Xen took for this vCPU, bounced to the handler of the guest's trap table.
    > struct trap_info, set_trap_table, public/arch-x86/xen.h
vcpu:hypercall = last hypercall
    The last call into the hypervisor and its answer; a negative one is an errno.
    > __HYPERVISOR_*, public/xen.h; public/errno.h
time:guest = time in the guest
    Host time spent executing the guest's own instructions.
    > RUNSTATE_running, public/vcpu.h
time:xen = time in the hypervisor
    Host time spent on its hypercalls, traps and emulated instructions.
    > RUNSTATE_running, public/vcpu.h (Xen counts both as one)
time:idle = idle time
    It was blocked and wanted no CPU.
    > RUNSTATE_blocked, public/vcpu.h
cpu:physical = physical CPU
    The worker that runs the vCPU now or ran it last.
    > struct xen_domctl_getvcpuinfo.cpu, public/domctl.h
# memory
mem:current = current
    Frames that the domain owns.
    > xen_domctl_getdomaininfo.tot_pages, public/domctl.h
mem:target = target
    What Domain-0 asks the balloon driver to come to.
    > memory/target in xenstore
mem:minimum = minimum
    What the balloon policy leaves the domain: minmem= in its cfg, or mem-min. By mem-set it may go lower.
    > XAPI's memory-dynamic-min
mem:maximum = maximum
    The quota: no hypercall gives the domain more.
    > XEN_DOMCTL_max_mem, public/domctl.h
mem:dirty = dirty
    Frames written since the last snapshot.
    > XEN_DOMCTL_SHADOW_OP_CLEAN, public/domctl.h, as the log-dirty mode of a migration counts
mem:p2m = p2m — pseudo-physical to machine
    Where each of the guest's frames (PFN) lies in the machine (MFN). A PV guest knows both; the two differ.
    > start_info.mfn_list, arch_shared_info.pfn_to_mfn_frame_list_list, public/xen.h
frame:hole = hole
    A pseudo-physical frame with no machine frame behind it: ballooned out, or never populated.
    > INVALID_P2M_ENTRY
frame:ram = ram
    Ordinary memory without a type of its own at present.
    > PGT_none, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:l1 = l1 — page table, lowest level
    Its entries map 4 KiB pages. Typed by Xen, so the guest may map it read-only alone.
    > PGT_l1_page_table, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:l2 = l2 — page table, second level
    Its entries name L1 tables (a PV guest has no 2 MiB pages).
    > PGT_l2_page_table, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:l3 = l3 — page table, third level
    Its entries name L2 tables.
    > PGT_l3_page_table, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:l4 = l4 — page table, root
    What cr3 names; Xen's own slots are filled in by Xen.
    > PGT_l4_page_table, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:seg_desc = seg_desc — descriptor table
    Holds a GDT or LDT; its descriptors were checked and it is read-only to the guest.
    > PGT_seg_desc_page, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:writable = writable
    Mapped writable somewhere, and so unable to become a page table.
    > PGT_writable_page, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
frame:shared_info = shared_info
    The page that Xen and the guest share: event bits, clocks, the vCPUs' upcall bytes.
    > struct shared_info, public/xen.h
frame:start_info = start_info
    What the domain builder tells the kernel: memory, console, xenstore, ramdisk, command line.
    > struct start_info, public/xen.h
frame:console = console
    The console ring.
    > struct xencons_interface, public/io/console.h
frame:xenstore = xenstore
    The xenstore ring.
    > struct xenstore_domain_interface, public/io/xs_wire.h
frame:grant = grant
    A frame of the grant table.
    > grant_entry_v1, public/grant_table.h
frame:xen = xen
    Owned by the hypervisor itself and mapped to the guest.
    > PGC_xen_heap, PGT_* in Xen's xen/arch/x86/include/asm/mm.h
# rings
ring:req_prod = req_prod — request producer
    How many requests (or bytes) were ever put in. Free-running; modulo the size it is a slot.
    > public/io/ring.h; in_prod, out_prod in public/io/console.h
ring:req_cons = req_cons — request consumer
    How many were taken out. Private to the backend in a request ring, shared in the console's.
    > req_cons of back_ring, public/io/ring.h; in_cons, out_cons in public/io/console.h
ring:rsp_prod = rsp_prod — response producer
    How many responses the backend has put in, into the slots of requests it has taken.
    > struct sring.rsp_prod, public/io/ring.h
ring:rsp_cons = rsp_cons — response consumer
    How many responses the frontend has taken; their slots are free again.
    > rsp_cons of front_ring, public/io/ring.h
ring:flight = in flight
    Between producer and consumer: put in and not yet taken out. Equal indices mean empty.
    > RING_HAS_UNCONSUMED_REQUESTS, public/io/ring.h
ring:stalled = stalled
    Work waits and nobody has moved an index for a second: a lost event, or the other side is stuck.
    > RING_FINAL_CHECK_FOR_REQUESTS, public/io/ring.h, is what prevents it
ring:gfn = frame
    The guest's frame that the ring lies in.
    > start_info.console.domU.mfn, public/xen.h; ring-ref in xenstore
ring:port = port
    The event channel by which either side wakes the other.
    > start_info.console.domU.evtchn, public/xen.h; event-channel in xenstore
# event channels
port:free = free
    Not in use.
    > EVTCHNSTAT_closed, public/event_channel.h
port:reserved = reserved
    Port 0 is never handed out.
    > public/event_channel.h
port:unbound = unbound
    Waits for one named domain to connect.
    > EVTCHNSTAT_unbound, public/event_channel.h
port:interdomain = interdomain
    Connected to a port of another domain; a send sets the other one pending.
    > EVTCHNSTAT_interdomain, public/event_channel.h
port:pirq = pirq
    Bound to a physical interrupt line.
    > EVTCHNSTAT_pirq, public/event_channel.h
port:virq = virq
    Bound to a virtual interrupt of the hypervisor, as the timer.
    > EVTCHNSTAT_virq, public/event_channel.h; VIRQ_*, public/xen.h
port:ipi = ipi
    A vCPU sends it to another of the same domain.
    > EVTCHNSTAT_ipi, public/event_channel.h
port:pending = pending
    The port's bit is set in the shared page: an event came that the guest has not taken.
    > shared_info.evtchn_pending, public/xen.h
port:masked = masked
    The guest's own bit: a pending event makes no upcall while it is set.
    > shared_info.evtchn_mask, public/xen.h
port:count = count
    Events sent through the port since the domain's start.
    > evtchn_send in Xen's xen/common/event_channel.c
# hypercalls
call:set_trap_table = set_trap_table
    Hands over the guest's handlers for exceptions, as an IDT would.
    > __HYPERVISOR_set_trap_table 0, public/arch-x86/xen.h
call:mmu_update = mmu_update
    Writes page-table entries by machine address, each checked; many in one call.
    > __HYPERVISOR_mmu_update 1, struct mmu_update, public/xen.h
call:set_gdt = set_gdt
    Installs the frames of the guest's GDT after checking its descriptors.
    > __HYPERVISOR_set_gdt 2, public/arch-x86/xen.h
call:stack_switch = stack_switch
    Names the kernel stack for the next entry from user mode.
    > __HYPERVISOR_stack_switch 3, public/xen.h
call:fpu_taskswitch = fpu_taskswitch
    Sets or clears cr0.TS, for lazy switching of the FPU.
    > __HYPERVISOR_fpu_taskswitch 5, public/xen.h
call:update_descriptor = update_descriptor
    Writes one descriptor of a GDT or LDT by machine address.
    > __HYPERVISOR_update_descriptor 10, public/xen.h
call:memory_op = memory_op
    The domain's memory: give back, ask for more, where the M2P table lies.
    > __HYPERVISOR_memory_op 12, public/memory.h
call:multicall = multicall
    A batch of hypercalls in one entry into Xen.
    > __HYPERVISOR_multicall 13, struct multicall_entry, public/xen.h
call:update_va_mapping = update_va_mapping
    Sets the page-table entry that maps one virtual address, with a TLB flush to choice.
    > __HYPERVISOR_update_va_mapping 14, public/xen.h
call:set_timer_op = set_timer_op
    Sets the one-shot timer of this vCPU (older form of VCPUOP_set_singleshot_timer).
    > __HYPERVISOR_set_timer_op 15, public/xen.h
call:xen_version = xen_version
    Asks for version, features, capabilities; Linux uses it as the cheapest way to force a pending upcall.
    > __HYPERVISOR_xen_version 17, public/version.h
call:console_io = console_io
    Writes to the host's own console, before any ring is up.
    > __HYPERVISOR_console_io 18, CONSOLEIO_write, public/xen.h
call:grant_table_op = grant_table_op
    Maps, copies and sets up grants: how domains share frames by consent.
    > __HYPERVISOR_grant_table_op 20, public/grant_table.h
call:vm_assist = vm_assist
    Turns on conveniences, as emulated writes to page tables.
    > __HYPERVISOR_vm_assist 21, VMASST_TYPE_*, public/xen.h
call:iret = iret
    Goes back from an upcall or trap: registers from the guest's stack, mode switched, events unmasked at once.
    > __HYPERVISOR_iret 23, struct iret_context, public/arch-x86/xen-x86_64.h
call:vcpu_op = vcpu_op
    A vCPU's affairs: bring it up, its info page, run-state area, timers.
    > __HYPERVISOR_vcpu_op 24, public/vcpu.h
call:set_segment_base = set_segment_base
    Sets the bases of FS and GS, which ring 3 may not write.
    > __HYPERVISOR_set_segment_base 25, public/arch-x86/xen-x86_64.h
call:mmuext_op = mmuext_op
    Pins page tables, changes the base, flushes TLBs, sets the LDT.
    > __HYPERVISOR_mmuext_op 26, struct mmuext_op, public/xen.h
call:sched_op = sched_op
    Gives up the CPU: yield, block until an event, poll ports, shut down.
    > __HYPERVISOR_sched_op 29, SCHEDOP_*, public/sched.h
call:callback_op = callback_op
    Registers entry points: event upcall, failsafe, system call, NMI.
    > __HYPERVISOR_callback_op 30, public/callback.h
call:event_channel_op = event_channel_op
    Makes, binds, closes, sends and unmasks event channels.
    > __HYPERVISOR_event_channel_op 32, public/event_channel.h
call:physdev_op = physdev_op
    Interrupt lines and I/O privilege (virtual IOPL, I/O bitmap).
    > __HYPERVISOR_physdev_op 33, public/physdev.h
call:hvm_op = hvm_op
    For HVM guests; a PV guest is refused most of it.
    > __HYPERVISOR_hvm_op 34, public/hvm/hvm_op.h
call:sysctl = sysctl
    For Domain-0 alone; others get -EPERM.
    > __HYPERVISOR_sysctl 35, public/sysctl.h
call:domctl = domctl
    For Domain-0 alone; others get -EPERM.
    > __HYPERVISOR_domctl 36, public/domctl.h
call:platform_op = platform_op
    For Domain-0 alone; others get -EPERM.
    > __HYPERVISOR_platform_op 7, public/platform.h
# traps
call:#DE = #DE — divide error
    Vector 0.
    > X86_EXC_DE; TRAP_divide_error
call:#DB = #DB — debug
    Vector 1: a single step or a breakpoint register.
    > X86_EXC_DB
call:#BP = #BP — breakpoint
    Vector 3: int3.
    > X86_EXC_BP
call:#UD = #UD — invalid opcode
    Vector 6. `ud2; "xen"` is Xen's forced-emulation prefix and is no error.
    > X86_EXC_UD; XEN_EMULATE_PREFIX, public/arch-x86/xen.h
call:#NM = #NM — device not available
    Vector 7: the FPU was used with cr0.TS set.
    > X86_EXC_NM
call:#GP = #GP — general protection
    Vector 13: Xen first looks whether it is a privileged instruction that it emulates.
    > X86_EXC_GP; emulate_privileged_op in Xen's pv/emul-priv-op.c
call:#PF = #PF — page fault
    Vector 14. Error bits: 1 present, 2 write, 4 user, 16 fetch. Xen may emulate a write to a page table, else the
    guest gets it.
    > X86_EXC_PF; arch_vcpu_info.cr2, public/arch-x86/xen-x86_64.h
# trace
trace:cost = cost
    Host time that the hypervisor spent on the call, not the guest's own time.
    > xenconsole's own measure
trace:vtime = virtual time
    The guest's system time when it happened.
    > vcpu_time_info.system_time, public/xen.h
# domain
dom:hypercalls = hypercalls
    Calls into the hypervisor since the domain's start.
    > perfc hypercalls in Xen
dom:events = events
    Event-channel notifications sent to it since its start.
    > evtchn_send in Xen's xen/common/event_channel.c
dom:faults = page faults
    Those the hypervisor saw; most are bounced to the guest.
    > do_page_fault in Xen's arch/x86/traps.c
dom:uuid = uuid
    The domain's handle: stays the same over a reboot, a save and a migration.
    > xen_domctl_createdomain.handle, public/domctl.h
dom:domid = domain ID
    Given at creation, never used again while the host is up.
    > domid_t, public/xen.h; DOMID_FIRST_RESERVED 0x7ff0
"""


@cache
def table() -> dict[str, Explanation]:
    """Every row of the table by its key."""
    rows: dict[str, tuple[str, list[str], list[str]]] = {}
    key = ""
    for line in (*_TABLE.splitlines(), *explain_sharing.ROWS.splitlines(), *explain_devices.ROWS.splitlines()):
        if line.startswith("    > "):
            rows[key][2].append(line[6:])
        elif line.startswith("    "):
            rows[key][1].append(line[4:])
        elif not line.startswith("#"):
            key, _, title = line.partition(" = ")
            rows[key] = (title, [], [])
    return {key: Explanation(title, " ".join(text), " ".join(source)) for key, (title, text, source) in rows.items()}


def explain(key: str) -> Explanation | None:
    """The explanation of a field, None when the table has none. General registers need no row of their own."""
    row = table().get(key)
    group, _, name = key.partition(":")
    if row is None and group == "reg":
        if name in ("ds", "es", "fs", "gs"):
            text = "Seldom used in 64-bit code; a selector of the guest's own GDT or LDT, which Xen has checked."
            return Explanation(f"{name} — segment selector", text, _REGISTERS)
        return Explanation(f"{name} — general register", _GENERAL.get(name, "Preserved by a hypercall."), _REGISTERS)
    return row
