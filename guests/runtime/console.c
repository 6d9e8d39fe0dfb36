/* The console: Domain-0's ring for the guest's terminal, console_io for the hypervisor's own log. */
#include "runtime.h"

static volatile struct xencons_interface *ring;

static void wake_only(unsigned port)
{
    (void)port;
}

void console_init(void)
{
    unsigned long pfn = mfn_to_pfn(start_info->console_mfn);
    if (pfn == ~0UL)
        panic("console page %#lx is not ours", (unsigned long)start_info->console_mfn);
    ring = pfn_to_virt(pfn);
    event_bind(start_info->console_evtchn, wake_only);
}

bool console_ready(void)
{
    return ring != NULL;
}

/* Waits for Domain-0 to take something, with events masked or not. */
static void wait_for_room(void)
{
    uint32_t port = start_info->console_evtchn;
    struct sched_poll poll = {&port, 1, now_ns() + NSEC / 10};
    event_clear(port); /* what it announced is read from the ring's indices, by us and by whoever waits for input */
    if (ring->out_prod - ring->out_cons < sizeof(ring->out))
        return;
    if (HYPERVISOR(sched_op, SCHEDOP_poll, &poll))
        HYPERVISOR(sched_op, SCHEDOP_yield, 0);
}

void console_write(const char *text, size_t length)
{
    if (!ring)
        return;
    while (length) {
        uint32_t prod = ring->out_prod;
        uint32_t room = sizeof(ring->out) - (prod - ring->out_cons);
        if (room > sizeof(ring->out))
            panic("console ring: out_cons is ahead of out_prod");
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the room is seen before it is written to */
        for (; room && length; room--, length--)
            ring->out[prod++ & (sizeof(ring->out) - 1)] = *text++;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        ring->out_prod = prod;
        event_send(start_info->console_evtchn);
        if (length)
            wait_for_room();
    }
}

bool console_input(void)
{
    return ring->in_prod != ring->in_cons;
}

int console_read(void)
{
    uint32_t cons = ring->in_cons;
    if (ring->in_prod == cons)
        return -1;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    int byte = (unsigned char)ring->in[cons & (sizeof(ring->in) - 1)];
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the byte is taken before its place is given back */
    ring->in_cons = cons + 1;
    /* Domain-0 waits for room only when the ring was full; telling it each time a batch ends costs little more. */
    if (ring->in_prod == cons + 1 || ring->in_prod - cons >= sizeof(ring->in))
        event_send(start_info->console_evtchn);
    return byte;
}

bool console_take_interrupt(void)
{
    uint32_t prod = ring->in_prod;
    for (uint32_t at = ring->in_cons; at != prod; at++) {
        if (ring->in[at & (sizeof(ring->in) - 1)] == 3) {
            ring->in_cons = at + 1;
            event_send(start_info->console_evtchn);
            return true;
        }
    }
    return false;
}

void hypervisor_write(const char *text, size_t length)
{
    HYPERVISOR(console_io, CONSOLEIO_write, length, text); /* refused by a Xen without VERBOSE_DEBUG: then there is no log */
}
