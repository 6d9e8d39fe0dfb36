/*
 * Hypercalls with arguments that no honest guest gives. The errno is that of Xen 4.17 (common/, arch/x86/), ANY_ERROR where it
 * depends on how Xen was built.
 */
#include "calls.h"

static long by_number(long nr)
{
    return hypercall(nr, 0, 0, 0, 0, 0);
}

static long by_syscall(long nr)
{
    return hypercall_syscall(nr, 0, 0, 0, 0, 0);
}

static const struct attempt numbers[] = {
    {"hypercall 11, never given out", by_number, 11, XEN_ENOSYS, NULL},
    {"hypercall 43, the first beyond", by_number, 43, XEN_ENOSYS, NULL},
    {"hypercall 63", by_number, 63, XEN_ENOSYS, NULL},
    {"hypercall 127, last of the page", by_number, 127, XEN_ENOSYS, NULL},
    {"hypercall 128", by_syscall, 128, XEN_ENOSYS, NULL},
    {"hypercall 0xffffffff", by_syscall, 0xffffffff, XEN_ENOSYS, NULL},
    {"hypercall 2^63", by_syscall, (long)(1UL << 63), XEN_ENOSYS, NULL},
    {"hypercall -1", by_syscall, -1, XEN_ENOSYS, NULL},
};

/* What Domain-0's tools do. Their structures begin alike: a command, a version of the interface, a domain. */
static long tool(long nr, uint32_t cmd, uint32_t version, uint16_t domain)
{
    uint32_t *words = (uint32_t *)victim;
    memset(victim, 0, 256);
    words[0] = cmd;
    words[1] = version;
    words[2] = domain;
    return hypercall(nr, (unsigned long)victim, 0, 0, 0, 0);
}

#define DOMCTL_VERSION 0x15
#define SYSCTL_VERSION 0x15
#define PLATFORM_VERSION 0x03000001

#define PRIVILEGED(X) \
    X(dc_create, "domctl: create a domain", XEN_EPERM, tool(__HYPERVISOR_domctl, 1, DOMCTL_VERSION, 0)) \
    X(dc_destroy, "domctl: destroy domain 0", XEN_EPERM, tool(__HYPERVISOR_domctl, 2, DOMCTL_VERSION, 0)) \
    X(dc_pause, "domctl: pause domain 0", XEN_EPERM, tool(__HYPERVISOR_domctl, 3, DOMCTL_VERSION, 0)) \
    X(dc_info, "domctl: domain 0's information", XEN_EPERM, tool(__HYPERVISOR_domctl, 5, DOMCTL_VERSION, 0)) \
    X(dc_unknown, "domctl: command 9999", XEN_EPERM, tool(__HYPERVISOR_domctl, 9999, DOMCTL_VERSION, 0)) \
    X(sc_physinfo, "sysctl: physical information", XEN_EPERM, tool(__HYPERVISOR_sysctl, 3, SYSCTL_VERSION, 0)) \
    X(sc_console, "sysctl: read the log", XEN_EPERM, tool(__HYPERVISOR_sysctl, 1, SYSCTL_VERSION, 0)) \
    X(pf_time, "platform_op: set the time", XEN_EPERM, tool(__HYPERVISOR_platform_op, 17, PLATFORM_VERSION, 0)) \
    X(pf_microcode, "platform_op: load microcode", XEN_EPERM, tool(__HYPERVISOR_platform_op, 35, PLATFORM_VERSION, 0)) \
    X(kexec, "kexec_op", XEN_EPERM, HYPERVISOR(kexec_op, 0, victim)) \
    X(hypfs, "hypfs_op", XEN_EPERM, HYPERVISOR(hypfs_op, 0, 0, 0, 0, 0)) \
    X(xsm, "xsm_op", XEN_ENOSYS, HYPERVISOR(xsm_op, victim)) \
    X(dm, "dm_op on domain 0", ANY_ERROR, HYPERVISOR(dm_op, 0, 1, victim)) \
    X(hvm, "hvm_op: set a parameter of domain 0", ANY_ERROR, HYPERVISOR(hvm_op, 0, victim)) \
    X(mca, "arch_0 (machine checks)", XEN_EPERM, hypercall(48, (unsigned long)victim, 0, 0, 0, 0)) \
    X(tmem, "tmem_op, gone since 4.13", XEN_ENOSYS, HYPERVISOR(tmem_op, victim))

static long trap_entry(uint64_t address)
{
    struct trap_info table[2] = {{200, 0, FLAT_KERNEL_CS, address}};
    return HYPERVISOR(set_trap_table, table);
}

static long callback(uint16_t type, uint64_t address)
{
    struct callback_register request = {type, 0, address};
    return HYPERVISOR(callback_op, CALLBACKOP_register, &request);
}

static long unregister(uint16_t type)
{
    return HYPERVISOR(callback_op, CALLBACKOP_unregister, &type);
}

#define TRAPS(X) \
    X(tt_xen, "set_trap_table in Xen's memory", XEN_EFAULT, HYPERVISOR(set_trap_table, XEN_MEMORY)) \
    X(tt_nc, "set_trap_table non-canonical", XEN_EFAULT, HYPERVISOR(set_trap_table, NON_CANONICAL)) \
    X(tt_unmapped, "set_trap_table not mapped", XEN_EFAULT, HYPERVISOR(set_trap_table, UNMAPPED)) \
    X(tt_entry, "trap handler non-canonical", XEN_EINVAL, trap_entry(NON_CANONICAL)) \
    X(cb_nc, "callback non-canonical", XEN_EINVAL, callback(CALLBACKTYPE_event, NON_CANONICAL)) \
    X(cb_type, "callback of type 99", XEN_ENOSYS, callback(UNKNOWN, (uint64_t)victim)) \
    X(cb_unregister, "unregister the event callback", XEN_EINVAL, unregister(CALLBACKTYPE_event)) \
    X(cb_xen, "callback_op: argument in Xen's memory", XEN_EFAULT, HYPERVISOR(callback_op, 0, XEN_MEMORY)) \
    X(cb_unknown, "callback_op: command 99", XEN_ENOSYS, HYPERVISOR(callback_op, UNKNOWN, victim)) \
    X(nmi, "nmi_op: command 99", XEN_ENOSYS, HYPERVISOR(nmi_op, UNKNOWN, victim)) \
    X(dr_xen, "set_debugreg: Xen's memory", XEN_EPERM, HYPERVISOR(set_debugreg, 0, 0xffff82d080200000)) \
    X(dr_gd, "set_debugreg: general detect", XEN_EPERM, HYPERVISOR(set_debugreg, 7, 0x2400)) \
    X(dr_8, "set_debugreg: register 8", XEN_ENODEV, HYPERVISOR(set_debugreg, 8, 0)) \
    X(dr_read, "get_debugreg: register 9", XEN_ENODEV, HYPERVISOR(get_debugreg, 9)) \
    X(sb_nc, "set_segment_base: non-canonical FS", XEN_EINVAL, HYPERVISOR(set_segment_base, 0, NON_CANONICAL)) \
    X(sb_gs, "set_segment_base: non-canonical GS", XEN_EINVAL, HYPERVISOR(set_segment_base, 2, NON_CANONICAL)) \
    X(sb_which, "set_segment_base: segment 99", XEN_EINVAL, HYPERVISOR(set_segment_base, UNKNOWN, 0)) \
    X(iopl, "physdev_op: IOPL 4", XEN_EINVAL, ({ uint32_t iopl = 4; HYPERVISOR(physdev_op, 6, &iopl); })) \
    X(pd_unknown, "physdev_op: command 99", XEN_ENOSYS, HYPERVISOR(physdev_op, UNKNOWN, victim)) \
    X(va_type, "vm_assist: type 63", XEN_EINVAL, HYPERVISOR(vm_assist, 0, 63)) \
    X(va_cmd, "vm_assist: command 99", XEN_ENOSYS, HYPERVISOR(vm_assist, UNKNOWN, 2))

/* An event channel operation on up to three words */
static long event(unsigned op, uint32_t a, uint32_t b)
{
    uint32_t words[8] = {a, b};
    return HYPERVISOR(event_channel_op, op, words);
}

static long unbound(uint16_t domain)
{
    struct evtchn_alloc_unbound request = {domain, 0, 0};
    return HYPERVISOR(event_channel_op, EVTCHNOP_alloc_unbound, &request);
}

#define NO_PORT 100000

#define EVENTS(X) \
    X(ev_send0, "send on port 0", XEN_EINVAL, event(EVTCHNOP_send, 0, 0)) \
    X(ev_send, "send on a port out of range", XEN_EINVAL, event(EVTCHNOP_send, NO_PORT, 0)) \
    X(ev_send_max, "send on port 2^32-1", XEN_EINVAL, event(EVTCHNOP_send, ~0U, 0)) \
    X(ev_close0, "close port 0", XEN_EINVAL, event(EVTCHNOP_close, 0, 0)) \
    X(ev_close, "close a port out of range", XEN_EINVAL, event(EVTCHNOP_close, NO_PORT, 0)) \
    X(ev_unmask, "unmask a port out of range", XEN_EINVAL, event(EVTCHNOP_unmask, NO_PORT, 0)) \
    X(ev_virq, "bind VIRQ 99", XEN_EINVAL, event(EVTCHNOP_bind_virq, UNKNOWN, 0)) \
    X(ev_virq_max, "bind VIRQ 2^31", XEN_EINVAL, event(EVTCHNOP_bind_virq, 1U << 31, 0)) \
    X(ev_virq_cpu, "bind VIRQ_TIMER on vCPU 99", XEN_ENOENT, event(EVTCHNOP_bind_virq, VIRQ_TIMER, 99)) \
    X(ev_virq_again, "bind VIRQ_TIMER again", XEN_EEXIST, event(EVTCHNOP_bind_virq, VIRQ_TIMER, 0)) \
    X(ev_ipi, "bind an IPI on vCPU 99", XEN_ENOENT, event(EVTCHNOP_bind_ipi, 99, 0)) \
    X(ev_vcpu, "bind a port to vCPU 99", XEN_ENOENT, event(EVTCHNOP_bind_vcpu, 1, 99)) \
    X(ev_vcpu_port, "bind port 0 to vCPU 0", XEN_EINVAL, event(EVTCHNOP_bind_vcpu, 0, 0)) \
    X(ev_pirq, "bind a physical interrupt", XEN_EPERM, event(EVTCHNOP_bind_pirq, 16, 0)) \
    X(ev_inter, "connect to no domain", XEN_ESRCH, event(EVTCHNOP_bind_interdomain, NO_DOMAIN, 1)) \
    X(ev_inter_self, "connect to our own port 0", XEN_EINVAL, event(EVTCHNOP_bind_interdomain, DOMID_SELF, 0)) \
    X(ev_inter_port, "connect to a port out of range", XEN_EINVAL, event(EVTCHNOP_bind_interdomain, DOMID_SELF, NO_PORT)) \
    X(ev_unbound, "a port in domain 0", XEN_EPERM, unbound(0)) \
    X(ev_unbound_no, "a port in no domain", XEN_ESRCH, unbound(NO_DOMAIN)) \
    X(ev_status, "status of no domain", XEN_ESRCH, event(EVTCHNOP_status, NO_DOMAIN, 1)) \
    X(ev_status_port, "status of a port out of range", XEN_EINVAL, event(EVTCHNOP_status, DOMID_SELF, NO_PORT)) \
    X(ev_reset, "reset domain 0", XEN_EPERM, event(EVTCHNOP_reset, 0, 0)) \
    X(ev_xen, "event_channel_op: argument in Xen's memory", XEN_EFAULT, HYPERVISOR(event_channel_op, EVTCHNOP_send, XEN_MEMORY)) \
    X(ev_unknown, "event_channel_op: command 99", XEN_ENOSYS, HYPERVISOR(event_channel_op, UNKNOWN, victim))

/* With events masked: an event that waits to be delivered would end the call before it looks at the list. */
static long poll(uint32_t *ports, unsigned count)
{
    struct sched_poll request = {ports, count, 1};
    events_mask();
    long error = HYPERVISOR(sched_op, SCHEDOP_poll, &request);
    events_unmask();
    return error;
}

static long vcpu(unsigned op, unsigned id, uint64_t word)
{
    uint64_t words[4] = {word};
    return HYPERVISOR(vcpu_op, op, id, words);
}

static uint32_t no_port = NO_PORT;

#define SCHEDULING(X) \
    X(so_unknown, "sched_op: command 99", XEN_ENOSYS, HYPERVISOR(sched_op, UNKNOWN, victim)) \
    X(so_compat, "sched_op_compat: command 99", XEN_ENOSYS, HYPERVISOR(sched_op_compat, UNKNOWN, 0)) \
    X(so_shutdown, "shutdown: argument in Xen's memory", XEN_EFAULT, HYPERVISOR(sched_op, SCHEDOP_shutdown, XEN_MEMORY)) \
    X(so_poll, "poll 129 ports", XEN_EINVAL, poll(&no_port, 129)) \
    X(so_poll_xen, "poll: list in Xen's memory", XEN_EFAULT, poll((uint32_t *)XEN_MEMORY, 1)) \
    X(so_poll_port, "poll a port out of range", XEN_EINVAL, poll(&no_port, 1)) \
    X(so_remote, "shut domain 0 down", XEN_EPERM, \
      ({ uint32_t words[2] = {0, 0}; HYPERVISOR(sched_op, SCHEDOP_remote_shutdown, words); })) \
    X(so_pin, "override a pinning", XEN_EPERM, HYPERVISOR(sched_op, SCHEDOP_pin_override, victim)) \
    X(so_dog, "watchdog 99", XEN_EINVAL, ({ uint32_t words[2] = {99, 10}; HYPERVISOR(sched_op, SCHEDOP_watchdog, words); })) \
    X(vo_none, "vcpu_op: vCPU 99 up", XEN_ENOENT, vcpu(VCPUOP_up, 99, 0)) \
    X(vo_max, "vcpu_op: vCPU 2^32-1 up", XEN_ENOENT, vcpu(VCPUOP_up, ~0U, 0)) \
    X(vo_unknown, "vcpu_op: command 99", XEN_ENOSYS, vcpu(UNKNOWN, 0, 0)) \
    X(vo_init, "initialise: context in Xen's memory", XEN_EFAULT, HYPERVISOR(vcpu_op, VCPUOP_initialise, 0, XEN_MEMORY)) \
    X(vo_period, "periodic timer of 1 ns", XEN_EINVAL, vcpu(VCPUOP_set_periodic_timer, 0, 1)) \
    X(vo_single, "single-shot timer: Xen's memory", XEN_EFAULT, HYPERVISOR(vcpu_op, VCPUOP_set_singleshot_timer, 0, XEN_MEMORY)) \
    X(vo_info, "vcpu_info in a wild frame", XEN_EINVAL, vcpu(VCPUOP_register_vcpu_info, 0, WILD_MFN))

static long entry_result(uint64_t op)
{
    struct multicall_entry entry = {op, 0, {XEN_MEMORY, 1, 0, DOMID_SELF, 0, 0}};
    long error = HYPERVISOR(multicall, &entry, 1);
    return error ? error : (long)entry.result;
}

static long grant_map(uint16_t domain)
{
    struct {
        uint64_t host_addr;
        uint32_t flags, ref;
        uint16_t dom;
        int16_t status;
        uint32_t handle;
        uint64_t dev_bus_addr;
    } map = {(uint64_t)victim, 2, 0, domain, 0, 0, 0};
    long error = HYPERVISOR(grant_table_op, 0, &map, 1);
    return error ? error : map.status;
}

#define OTHERS(X) \
    X(mc_xen, "multicall in Xen's memory", XEN_EFAULT, HYPERVISOR(multicall, XEN_MEMORY, 1)) \
    X(mc_huge, "multicall of 2^32-1, not mapped", XEN_EFAULT, HYPERVISOR(multicall, UNMAPPED, ~0U)) \
    X(mc_number, "multicall: hypercall 63", XEN_ENOSYS, entry_result(63)) \
    X(mc_big, "multicall: hypercall 2^40", XEN_ENOSYS, entry_result(1UL << 40)) \
    X(mc_inner, "multicall: a bad mmu_update in it", XEN_EFAULT, entry_result(__HYPERVISOR_mmu_update)) \
    X(mc_nested, "multicall in a multicall", XEN_EINVAL, entry_result(__HYPERVISOR_multicall)) \
    X(gt_unknown, "grant_table_op: command 99", XEN_ENOSYS, HYPERVISOR(grant_table_op, UNKNOWN, victim, 1)) \
    X(gt_huge, "grant_table_op: 2^31 operations", XEN_EINVAL, HYPERVISOR(grant_table_op, 0, victim, 1U << 31)) \
    X(gt_xen, "grant_table_op: list in Xen's memory", XEN_EFAULT, HYPERVISOR(grant_table_op, 0, XEN_MEMORY, 1)) \
    X(gt_nodom, "map a grant of no domain (status)", BAD_DOMAIN, grant_map(NO_DOMAIN)) \
    X(xv_unknown, "xen_version: command 99", XEN_ENOSYS, HYPERVISOR(xen_version, UNKNOWN, victim)) \
    X(xv_xen, "xen_version: answer into Xen's memory", XEN_EFAULT, HYPERVISOR(xen_version, XENVER_extraversion, XEN_MEMORY)) \
    X(xv_m2p, "xen_version: answer into the M2P table", XEN_EFAULT, \
      HYPERVISOR(xen_version, XENVER_capabilities, HYPERVISOR_VIRT_START)) \
    X(xv_pt, "xen_version: answer into the L4", XEN_EFAULT, HYPERVISOR(xen_version, XENVER_capabilities, start_info->pt_base)) \
    X(ci_xen, "console_io: text in Xen's memory", XEN_EFAULT, HYPERVISOR(console_io, CONSOLEIO_write, 8, XEN_MEMORY)) \
    X(ci_huge, "console_io: 2^31-1 bytes, not mapped", XEN_EFAULT, \
      HYPERVISOR(console_io, CONSOLEIO_write, 0x7fffffff, UNMAPPED)) \
    X(ci_unknown, "console_io: command 99", XEN_ENOSYS, HYPERVISOR(console_io, UNKNOWN, 0, victim))

PRIVILEGED(CALL_DEFINE) TRAPS(CALL_DEFINE) EVENTS(CALL_DEFINE) SCHEDULING(CALL_DEFINE) OTHERS(CALL_DEFINE)

static const struct attempt privileged[] = {PRIVILEGED(CALL_ROW)}, traps[] = {TRAPS(CALL_ROW)}, events[] = {EVENTS(CALL_ROW)},
                            scheduling[] = {SCHEDULING(CALL_ROW)}, others[] = {OTHERS(CALL_ROW)};

const struct table hypercall_tables[] = {
    CALLS("Hypercalls by number", numbers),
    CALLS("What Domain-0 alone may do", privileged),
    CALLS("Traps, callbacks and debug registers", traps),
    CALLS("Event channels", events),
    CALLS("Scheduling and vCPUs", scheduling),
    CALLS("Multicalls, grants, version, console", others),
    {NULL, NULL, 0, false, NULL, NULL},
};
