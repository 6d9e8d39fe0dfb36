/* Two-level event channels: the shared page, the upcall's scan, masking, blocking. */
#include "runtime.h"

struct shared_info *shared_info;

static char shared_page[PAGE_SIZE] __attribute__((aligned(4096)));
static void (*handlers[EVTCHN_PORTS])(unsigned port);

static struct vcpu_info *self(void)
{
    return &shared_info->vcpu_info[0];
}

void events_init(void)
{
    /* The frame behind shared_page is given up for Xen's. */
    uint64_t entry = (start_info->shared_info & PTE_FRAME) | PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;
    long error = map_frame(shared_page, entry);
    if (error)
        panic("shared_info at %#lx: update_va_mapping returned %ld", (unsigned long)start_info->shared_info, error);
    shared_info = (struct shared_info *)shared_page;
    for (unsigned i = 0; i < EVTCHN_WORDS; i++)
        shared_info->evtchn_mask[i] = ~0UL;
}

static bool test_and_clear(volatile uint64_t *words, unsigned bit)
{
    bool was;
    __asm__ volatile("lock btrq %2, %1" : "=@ccc"(was), "+m"(words[bit / 64]) : "r"((uint64_t)(bit % 64)) : "memory");
    return was;
}

void events_upcall(void)
{
    self()->evtchn_upcall_pending = 0; /* before the scan: what comes later brings another upcall */
    uint64_t selector = __atomic_exchange_n(&self()->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    while (selector) {
        unsigned word = __builtin_ctzl(selector);
        selector &= selector - 1;
        uint64_t ready;
        while ((ready = *(volatile uint64_t *)&shared_info->evtchn_pending[word] & ~shared_info->evtchn_mask[word])) {
            unsigned port = word * 64 + __builtin_ctzl(ready);
            test_and_clear(shared_info->evtchn_pending, port);
            if (handlers[port])
                handlers[port](port);
        }
    }
}

void event_bind(unsigned port, void (*handler)(unsigned port))
{
    if (port >= EVTCHN_PORTS)
        panic("event channel %u out of range", port);
    handlers[port] = handler;
    uint32_t unmask = port;
    long error = HYPERVISOR(event_channel_op, EVTCHNOP_unmask, &unmask);
    if (error)
        panic("event channel %u: unmask returned %ld", port, error);
}

void event_clear(unsigned port)
{
    test_and_clear(shared_info->evtchn_pending, port);
}

void event_send(unsigned port)
{
    uint32_t send = port;
    HYPERVISOR(event_channel_op, EVTCHNOP_send, &send);
}

void events_mask(void)
{
    self()->evtchn_upcall_mask = 1;
    barrier();
}

void events_unmask(void)
{
    barrier();
    self()->evtchn_upcall_mask = 0;
    barrier();
    if (*(volatile uint8_t *)&self()->evtchn_upcall_pending)
        HYPERVISOR(xen_version, XENVER_version, 0); /* Xen looks for events on the way out of any hypercall */
}

void block(void)
{
    if (HYPERVISOR(sched_op, SCHEDOP_block, 0)) /* clears the mask itself, so that nothing is missed */
        panic("SCHEDOP_block refused");
    events_unmask();
}

void shutdown(unsigned reason)
{
    struct sched_shutdown request = {reason};
    for (;;)
        HYPERVISOR(sched_op, SCHEDOP_shutdown, &request);
}
