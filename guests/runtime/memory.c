/*
 * Frames and page tables. The bootstrap mapping is linear from VIRT_BASE, so a PFN's address is plain arithmetic; the way
 * back from an MFN is a search of the phys-to-machine list, which guests this small can afford.
 */
#include "runtime.h"

static const uint64_t *p2m(void)
{
    return (const uint64_t *)start_info->mfn_list;
}

unsigned long mfn_to_pfn(unsigned long mfn)
{
    for (unsigned long pfn = 0; pfn < start_info->nr_pages; pfn++)
        if (p2m()[pfn] == mfn)
            return pfn;
    return ~0UL;
}

unsigned long pfn_to_mfn(unsigned long pfn)
{
    return pfn < start_info->nr_pages ? p2m()[pfn] : ~0UL;
}

void *pfn_to_virt(unsigned long pfn)
{
    return image_start + pfn * PAGE_SIZE;
}

unsigned long virt_to_mfn(const void *address)
{
    return pfn_to_mfn((unsigned long)((const char *)address - image_start) / PAGE_SIZE);
}

unsigned long virt_to_maddr(const void *address)
{
    return virt_to_mfn(address) * PAGE_SIZE + (unsigned long)address % PAGE_SIZE;
}

const uint64_t *page_entry(unsigned long address, int level)
{
    const uint64_t *table = (const uint64_t *)start_info->pt_base;
    for (int at = 4;; at--) {
        const uint64_t *entry = &table[address >> (12 + 9 * (at - 1)) & 511];
        if (at == level)
            return entry;
        if (!(*entry & PTE_PRESENT))
            return NULL;
        unsigned long pfn = mfn_to_pfn((*entry & PTE_FRAME) / PAGE_SIZE);
        if (pfn == ~0UL)
            return NULL;
        table = pfn_to_virt(pfn);
    }
}

long map_frame(void *address, uint64_t entry)
{
    return HYPERVISOR(update_va_mapping, address, entry, UVMF_INVLPG);
}
