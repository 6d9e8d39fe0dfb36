/* Hypercalls as rows: X(identifier, name in the table, errno of Xen 4.17, expression). */
#ifndef CALLS_H
#define CALLS_H

#include "rogue.h"

#define UNMAPPED 0x1000L
#define UNKNOWN 99

/* What a grant operation says of itself (GNTST_*): negative as an errno is, but no errno */
#define GENERAL_ERROR 1
#define BAD_DOMAIN 2
#define BAD_REF 3
#define BAD_HANDLE 4
#define PERMISSION_DENIED 8
#define BAD_PAGE 9
#define BAD_COPY_ARG 10

#define CALL_DEFINE(id, name, expect, ...) \
    static long call_##id(long unused) \
    { \
        (void)unused; \
        return __VA_ARGS__; \
    }
#define CALL_ROW(id, name, expect, ...) {name, call_##id, 0, expect, NULL},
#define CALLS(title, rows) {title, rows, ARRAY_SIZE(rows), true, NULL, NULL}

#define RW (PTE_PRESENT | PTE_WRITE)
#define VICTIM_MFN virt_to_mfn(victim)

/* One update, one operation */
static inline long mmu(uint64_t ptr, uint64_t val, unsigned domain)
{
    struct mmu_update update = {ptr, val};
    return HYPERVISOR(mmu_update, &update, 1, 0, domain);
}

static inline long ext(uint32_t cmd, uint64_t arg1, uint64_t arg2, unsigned domain)
{
    struct mmuext_op op = {cmd, arg1, arg2};
    return HYPERVISOR(mmuext_op, &op, 1, 0, domain);
}

/* Machine address of the entry that maps the victim page at a level; machine frames of two page tables */
static inline uint64_t entry_at(int level)
{
    return virt_to_maddr(page_entry((unsigned long)victim, level));
}

static inline uint64_t l4_mfn(void)
{
    return virt_to_mfn((void *)start_info->pt_base);
}

static inline uint64_t l1_mfn(void)
{
    return entry_at(1) / PAGE_SIZE;
}

#endif
