/* Xen's clocks: system time from the TSC by vcpu_time_info, the wall clock, and the one-shot timer. */
#include "runtime.h"

static void wake_only(unsigned port)
{
    (void)port;
}

void time_init(void)
{
    HYPERVISOR(vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    struct evtchn_bind_virq bind = {VIRQ_TIMER, 0, 0};
    long error = HYPERVISOR(event_channel_op, EVTCHNOP_bind_virq, &bind);
    if (error)
        panic("VIRQ_TIMER: bind_virq returned %ld", error);
    event_bind(bind.port, wake_only);
}

uint64_t now_ns(void)
{
    const volatile struct vcpu_time_info *time = &shared_info->vcpu_info[0].time;
    for (;;) {
        uint32_t version = time->version;
        barrier();
        uint64_t delta = rdtsc() - time->tsc_timestamp;
        int shift = time->tsc_shift;
        uint32_t mul = time->tsc_to_system_mul;
        uint64_t base = time->system_time;
        barrier();
        if ((version & 1) || version != time->version)
            continue;
        delta = shift >= 0 ? delta << shift : delta >> -shift;
        return base + (uint64_t)((unsigned __int128)delta * mul >> 32);
    }
}

void wall_clock(uint64_t *sec, uint64_t *ns)
{
    const volatile struct shared_info *shared = shared_info;
    uint32_t version;
    uint64_t seconds, nanos;
    do {
        version = shared->wc_version;
        barrier();
        seconds = (uint64_t)shared->wc_sec_hi << 32 | shared->wc_sec;
        nanos = shared->wc_nsec;
        barrier();
    } while ((version & 1) || version != shared->wc_version);
    nanos += now_ns();
    *sec = seconds + nanos / NSEC;
    *ns = nanos % NSEC;
}

void timer_set(uint64_t deadline_ns)
{
    struct vcpu_set_singleshot_timer timer = {deadline_ns, 0};
    if (HYPERVISOR(vcpu_op, VCPUOP_set_singleshot_timer, 0, &timer))
        HYPERVISOR(set_timer_op, deadline_ns);
}

bool sleep_until(uint64_t deadline_ns, bool (*interrupted)(void))
{
    bool stop = false;
    events_mask();
    while (now_ns() < deadline_ns && !(stop = interrupted && interrupted())) {
        timer_set(deadline_ns);
        block();
        events_mask();
    }
    events_unmask();
    return stop;
}
