/* Plain loads, stores and jumps where a guest has no business, among them its own page tables. */
#include "rogue.h"

#define SS 12
#define GP 13
#define PF 14

static long load(long address)
{
    long value;
    __asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(address));
    return value;
}

static long store(long address)
{
    __asm__ volatile("movq %0, (%1)" ::"r"(0x1122334455667788L), "r"(address) : "memory");
    return 0;
}

static long jump(long address)
{
    __asm__ volatile("call *%0" ::"r"(address) : "memory");
    return 0;
}

static long stack_load(long address)
{
    long value;
    __asm__ volatile("pushq %%rbp; movq %1, %%rbp; movq (%%rbp), %0; popq %%rbp" : "=r"(value) : "r"(address));
    return value;
}

static long store_entry(int level, unsigned long value)
{
    volatile uint64_t *entry = (volatile uint64_t *)page_entry((unsigned long)victim, level);
    *entry = value;
    return (long)*entry;
}

/* Upper levels are never written by a plain store; the lowest is, and then checked as mmu_update would. */
static long store_l4(long unused)
{
    return store_entry(4, *page_entry((unsigned long)victim, 4) | PTE_NX) + unused;
}

static long store_l2(long unused)
{
    return store_entry(2, *page_entry((unsigned long)victim, 2) | PTE_NX) + unused;
}

static long store_l1_wild(long unused)
{
    return store_entry(1, WILD_MFN * PAGE_SIZE | PTE_PRESENT | PTE_WRITE) + unused;
}

static long store_l1_table(long unused)
{
    return store_entry(1, virt_to_maddr((void *)start_info->pt_base) | PTE_PRESENT | PTE_WRITE) + unused;
}

static const struct attempt places[] = {
    {"load from address 0", load, 0, PF, NULL},
    {"load from Xen's direct map", load, (long)XEN_MEMORY, PF, NULL},
    {"store to Xen's direct map", store, (long)XEN_MEMORY, PF, NULL},
    {"load from Xen's text", load, (long)0xffff82d080200000, PF, NULL},
    {"jump to Xen's text", jump, (long)0xffff82d080200000, PF, NULL},
    {"load from the linear page tables", load, (long)0xffff810000000000, PF, NULL},
    {"store to the M2P table", store, (long)HYPERVISOR_VIRT_START, PF, NULL},
    {"load from a non-canonical address", load, (long)NON_CANONICAL, GP, NULL},
    {"store to a non-canonical address", store, (long)NON_CANONICAL, GP, NULL},
    {"the same by the stack segment", stack_load, (long)NON_CANONICAL, SS, NULL},
    {"jump to address 0", jump, 0, PF, NULL},
    {"load from the last page", load, -4096, PF, NULL},
};

static const struct attempt own_tables[] = {
    {"store to the L4 table", store_l4, 0, PF, NULL},
    {"store to an L2 table", store_l2, 0, PF, NULL},
    {"store to an L1 table: a wild frame", store_l1_wild, 0, PF, NULL},
    {"store to an L1 table: L4 writable", store_l1_table, 0, PF, NULL},
};

const struct table memory_tables[] = {
    TABLE("Loads, stores and jumps", places, NULL, NULL),
    TABLE("Page tables by plain stores", own_tables, NULL, NULL),
    {NULL, NULL, 0, false, NULL, NULL},
};
