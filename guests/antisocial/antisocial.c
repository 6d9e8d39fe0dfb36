/* A bad neighbour, by its command line: "memory" dirties what it has, "hypercalls" and "events" flood the hypervisor. */
#include "runtime.h"

#define HEAP (2UL << 20)
#define LINE 64
#define XENVER_version 0

static char heap[HEAP];

static void touch_memory(void)
{
    for (;;)
        for (unsigned long at = 0; at < HEAP; at += LINE)
            ((volatile char *)heap)[at]++;
}

static void flood_hypercalls(void)
{
    for (;;)
        HYPERVISOR(xen_version, XENVER_version, 0);
}

static void ignore(unsigned port)
{
    (void)port;
}

static void flood_events(void)
{
    struct evtchn_bind_ipi bind = {.vcpu = 0};
    if (HYPERVISOR(event_channel_op, EVTCHNOP_bind_ipi, &bind))
        panic("no port for an IPI");
    event_bind(bind.port, ignore);
    for (;;)
        event_send(bind.port);
}

void guest_main(void)
{
    const char *how = (const char *)start_info->cmd_line;
    printf("antisocial: %s\n", how);
    if (how[0] == 'h')
        flood_hypercalls();
    else if (how[0] == 'e')
        flood_events();
    touch_memory();
}
