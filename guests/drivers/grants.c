/* The grant table: one frame, its entries handed out in order and never taken back. */
#include "drivers.h"

#define RESERVED 8 /* GNTTAB_NR_RESERVED_ENTRIES */

static char table_page[PAGE_SIZE] __attribute__((aligned(4096)));
static volatile struct grant_entry_v1 *table;
static uint32_t next = RESERVED;

volatile struct grant_entry_v1 *grants_init(void)
{
    uint64_t frame = 0;
    struct gnttab_setup_table setup = {DOMID_SELF, 1, 0, &frame};
    long error = HYPERVISOR(grant_table_op, GNTTABOP_setup_table, &setup, 1);
    if (error || setup.status)
        panic("grant table: setup returned %ld, status %d", error, setup.status);
    error = map_frame(table_page, frame * PAGE_SIZE | PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY);
    if (error)
        panic("grant table: frame %#lx cannot be mapped: %ld", (unsigned long)frame, error);
    table = (volatile struct grant_entry_v1 *)table_page;
    return table;
}

uint32_t grant_page(const void *page, bool readonly)
{
    if (!table)
        grants_init();
    if (next >= PAGE_SIZE / sizeof(*table))
        panic("all grant entries are used");
    table[next].frame = virt_to_mfn(page);
    table[next].domid = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the entry is whole before it is valid */
    table[next].flags = GTF_permit_access | (readonly ? GTF_readonly : 0);
    return next++;
}
