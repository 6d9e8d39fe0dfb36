/* Hypercalls on memory: page tables, mappings, descriptors, the reservation. */
#include "calls.h"

/* A linear map is allowed read-only; then it is made writable by the flags alone. Taken away again whatever came of it. */
static long linear_grown(unsigned slot)
{
    uint64_t entry = l4_mfn() * PAGE_SIZE + slot * 8;
    long error = mmu(entry, l4_mfn() * PAGE_SIZE | PTE_PRESENT, DOMID_SELF);
    if (!error)
        error = mmu(entry, l4_mfn() * PAGE_SIZE | PTE_PRESENT | PTE_WRITE, DOMID_SELF);
    mmu(entry, 0, DOMID_SELF);
    return error;
}

#define PAGE_TABLES(X) \
    X(mu_xen, "mmu_update: list in Xen's memory", XEN_EFAULT, HYPERVISOR(mmu_update, XEN_MEMORY, 1, 0, DOMID_SELF)) \
    X(mu_nc, "mmu_update: list non-canonical", XEN_EFAULT, HYPERVISOR(mmu_update, NON_CANONICAL, 1, 0, DOMID_SELF)) \
    X(mu_unmapped, "mmu_update: list not mapped", XEN_EFAULT, HYPERVISOR(mmu_update, UNMAPPED, 1, 0, DOMID_SELF)) \
    X(mu_huge, "mmu_update: 2^31-1 updates, not mapped", XEN_EFAULT, \
      HYPERVISOR(mmu_update, UNMAPPED, 0x7fffffff, 0, DOMID_SELF)) \
    X(mu_wild, "mmu_update: entry in a wild frame", XEN_EINVAL, mmu(WILD_MFN * PAGE_SIZE, 0, DOMID_SELF)) \
    X(mu_max, "mmu_update: entry at the top of all", XEN_EINVAL, mmu(~7UL, 0, DOMID_SELF)) \
    X(mu_cmd, "mmu_update: command 7", XEN_ENOSYS, mmu(entry_at(1) | 7, 0, DOMID_SELF)) \
    X(mu_map_wild, "mmu_update: L1 maps a wild frame", XEN_EPERM, mmu(entry_at(1), WILD_MFN * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_map_l4, "mmu_update: L1 maps the L4 writable", XEN_EBUSY, mmu(entry_at(1), l4_mfn() * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_map_l1, "mmu_update: L1 maps itself writable", XEN_EBUSY, mmu(entry_at(1), l1_mfn() * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_cache, "mmu_update: L1 uncached, without a device", XEN_EINVAL, \
      mmu(entry_at(1), VICTIM_MFN * PAGE_SIZE | RW | PTE_PCD, DOMID_SELF)) \
    X(mu_l2_data, "mmu_update: L2 points to data", XEN_EINVAL, mmu(entry_at(2), VICTIM_MFN * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_l2_pse, "mmu_update: L2 maps 2 MiB", XEN_EINVAL, mmu(entry_at(2), VICTIM_MFN * PAGE_SIZE | RW | PTE_PSE, DOMID_SELF)) \
    X(mu_l3_l1, "mmu_update: L3 points to an L1", XEN_EINVAL, mmu(entry_at(3), l1_mfn() * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_l4_xen, "mmu_update: L4 in Xen's own slot", XEN_EINVAL, \
      mmu(l4_mfn() * PAGE_SIZE + 256 * 8, l1_mfn() * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_l4_self, "mmu_update: L4 points to itself, writable", XEN_EINVAL, \
      mmu(l4_mfn() * PAGE_SIZE + 300 * 8, l4_mfn() * PAGE_SIZE | RW, DOMID_SELF)) \
    X(mu_m2p, "mmu_update: M2P of a wild frame", XEN_EINVAL, \
      mmu(WILD_MFN * PAGE_SIZE | MMU_MACHPHYS_UPDATE, 0, DOMID_SELF)) \
    X(mu_dom0, "mmu_update: pages of domain 0", XEN_EPERM, mmu(entry_at(1), VICTIM_MFN * PAGE_SIZE | RW, 0)) \
    X(mu_xenpages, "mmu_update: pages of DOMID_XEN", XEN_EPERM, mmu(entry_at(1), VICTIM_MFN * PAGE_SIZE | RW, DOMID_XEN)) \
    X(mu_nodom, "mmu_update: pages of no domain", XEN_ESRCH, mmu(entry_at(1), VICTIM_MFN * PAGE_SIZE | RW, NO_DOMAIN)) \
    X(mu_cmd4, "mmu_update: an entry's address plus 4", XEN_ENOSYS, mmu(entry_at(1) + 4, 0, DOMID_SELF)) \
    X(mu_l4_global, "mmu_update: L4 with the global bit", XEN_EINVAL, \
      mmu(l4_mfn() * PAGE_SIZE + 300 * 8, (entry_at(3) & ~0xfffUL) | RW | 0x100, DOMID_SELF)) \
    X(mu_l4_xen_ro, "mmu_update: L4 in Xen's last slot, read-only", XEN_EINVAL, \
      mmu(l4_mfn() * PAGE_SIZE + 271 * 8, l4_mfn() * PAGE_SIZE | PTE_PRESENT, DOMID_SELF)) \
    X(mu_l4_grown, "mmu_update: a read-only linear L4 made writable", XEN_EINVAL, linear_grown(300)) \
    X(mu_l2_l2, "mmu_update: L2 points to itself, writable", XEN_EINVAL, \
      mmu((entry_at(2) & ~0xfffUL) + 511 * 8, (entry_at(2) & ~0xfffUL) | RW, DOMID_SELF)) \
    X(mu_l1_l2, "mmu_update: L1 maps an L2 writable", XEN_EBUSY, mmu(entry_at(1), (entry_at(2) & ~0xfffUL) | RW, DOMID_SELF)) \
    X(mu_l1_l3, "mmu_update: L1 maps an L3 writable, A and D kept", XEN_EBUSY, \
      mmu(entry_at(1) | 2, (entry_at(3) & ~0xfffUL) | RW, DOMID_SELF)) \
    X(mu_all, "mmu_update: L1 maps frame ~0", XEN_EINVAL, mmu(entry_at(1), 0x000ffffffffff000UL | RW, DOMID_SELF)) \
    X(mu_ptnodom, "mmu_update: tables of no domain", XEN_ESRCH, mmu(entry_at(1), 0, (NO_DOMAIN + 1) << 16 | DOMID_SELF))

#define EXTENDED(X) \
    X(me_xen, "mmuext_op: list in Xen's memory", XEN_EFAULT, HYPERVISOR(mmuext_op, XEN_MEMORY, 1, 0, DOMID_SELF)) \
    X(me_huge, "mmuext_op: 2^31-1 operations, not mapped", XEN_EFAULT, \
      HYPERVISOR(mmuext_op, UNMAPPED, 0x7fffffff, 0, DOMID_SELF)) \
    X(me_unknown, "mmuext_op: command 99", XEN_ENOSYS, ext(UNKNOWN, 0, 0, DOMID_SELF)) \
    X(me_14, "mmuext_op: command 14, never given out", XEN_ENOSYS, ext(14, 0, 0, DOMID_SELF)) \
    X(me_pin1, "pin a wild frame as L1", XEN_EINVAL, ext(MMUEXT_PIN_L1_TABLE, WILD_MFN, 0, DOMID_SELF)) \
    X(me_pin4, "pin a wild frame as L4", XEN_EINVAL, ext(MMUEXT_PIN_L4_TABLE, WILD_MFN, 0, DOMID_SELF)) \
    X(me_pin_max, "pin frame ~0", XEN_EINVAL, ext(MMUEXT_PIN_L4_TABLE, ~0UL, 0, DOMID_SELF)) \
    X(me_pin_data, "pin a writable page as L1", XEN_EINVAL, ext(MMUEXT_PIN_L1_TABLE, VICTIM_MFN, 0, DOMID_SELF)) \
    X(me_pin_data4, "pin a writable page as L4", XEN_EINVAL, ext(MMUEXT_PIN_L4_TABLE, VICTIM_MFN, 0, DOMID_SELF)) \
    X(me_pin_41, "pin the L4 as L1", XEN_EINVAL, ext(MMUEXT_PIN_L1_TABLE, l4_mfn(), 0, DOMID_SELF)) \
    X(me_pin_14, "pin an L1 as L4", XEN_EINVAL, ext(MMUEXT_PIN_L4_TABLE, l1_mfn(), 0, DOMID_SELF)) \
    X(me_unpin, "unpin a wild frame", XEN_EINVAL, ext(MMUEXT_UNPIN_TABLE, WILD_MFN, 0, DOMID_SELF)) \
    X(me_unpin_data, "unpin a page not pinned", XEN_EINVAL, ext(MMUEXT_UNPIN_TABLE, VICTIM_MFN, 0, DOMID_SELF)) \
    X(me_base, "new base pointer: a wild frame", XEN_EINVAL, ext(MMUEXT_NEW_BASEPTR, WILD_MFN, 0, DOMID_SELF)) \
    X(me_base_data, "new base pointer: a data page", XEN_EINVAL, ext(MMUEXT_NEW_BASEPTR, VICTIM_MFN, 0, DOMID_SELF)) \
    X(me_base_l1, "new base pointer: an L1", XEN_EINVAL, ext(MMUEXT_NEW_BASEPTR, l1_mfn(), 0, DOMID_SELF)) \
    X(me_user, "new user base pointer: a wild frame", XEN_EINVAL, ext(MMUEXT_NEW_USER_BASEPTR, WILD_MFN, 0, DOMID_SELF)) \
    X(me_user_data, "new user base pointer: a data page", XEN_EINVAL, ext(MMUEXT_NEW_USER_BASEPTR, VICTIM_MFN, 0, DOMID_SELF)) \
    X(me_base_dom0, "new base pointer of domain 0", XEN_EPERM, ext(MMUEXT_NEW_BASEPTR, l4_mfn(), 0, 0)) \
    X(me_nodom, "TLB flush of no domain", XEN_ESRCH, ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0, NO_DOMAIN)) \
    X(me_multi, "TLB flush: mask in Xen's memory", XEN_EINVAL, ext(MMUEXT_TLB_FLUSH_MULTI, 0, XEN_MEMORY, DOMID_SELF)) \
    X(me_cache, "flush caches", XEN_EACCES, ext(MMUEXT_FLUSH_CACHE, 0, 0, DOMID_SELF)) \
    X(me_ldt_align, "LDT not on a page", XEN_EINVAL, ext(MMUEXT_SET_LDT, (uint64_t)victim + 8, 1, DOMID_SELF)) \
    X(me_ldt_xen, "LDT in Xen's memory", XEN_EINVAL, ext(MMUEXT_SET_LDT, XEN_MEMORY, 1, DOMID_SELF)) \
    X(me_ldt_many, "LDT of 8193 entries", XEN_EINVAL, ext(MMUEXT_SET_LDT, (uint64_t)victim, 8193, DOMID_SELF)) \
    X(me_clear_wild, "clear a wild frame", XEN_EINVAL, ext(MMUEXT_CLEAR_PAGE, WILD_MFN, 0, DOMID_SELF)) \
    X(me_clear_l4, "clear the L4", XEN_EINVAL, ext(MMUEXT_CLEAR_PAGE, l4_mfn(), 0, DOMID_SELF)) \
    X(me_copy_l1, "copy a page over an L1", XEN_EINVAL, ext(MMUEXT_COPY_PAGE, l1_mfn(), VICTIM_MFN, DOMID_SELF)) \
    X(me_copy_wild, "copy a wild frame", XEN_EINVAL, ext(MMUEXT_COPY_PAGE, VICTIM_MFN, WILD_MFN, DOMID_SELF)) \
    X(me_pin_again, "pin the L4 again", XEN_EINVAL, ext(MMUEXT_PIN_L4_TABLE, l4_mfn(), 0, DOMID_SELF)) \
    X(me_clear_l1, "clear an L1", XEN_EINVAL, ext(MMUEXT_CLEAR_PAGE, l1_mfn(), 0, DOMID_SELF)) \
    X(me_clear_max, "clear frame ~0", XEN_EINVAL, ext(MMUEXT_CLEAR_PAGE, ~0UL, 0, DOMID_SELF)) \
    X(me_invl_multi, "invlpg: mask in Xen's memory", XEN_EINVAL, ext(9, (uint64_t)victim, XEN_MEMORY, DOMID_SELF)) \
    X(me_super, "mark a superpage", XEN_EOPNOTSUPP, ext(MMUEXT_MARK_SUPER, VICTIM_MFN & ~511UL, 0, DOMID_SELF))

#define VA(address, entry) HYPERVISOR(update_va_mapping, address, entry, UVMF_INVLPG)

#define MAPPINGS(X) \
    X(va_wild, "map a wild frame", XEN_EPERM, VA(victim, WILD_MFN * PAGE_SIZE | RW)) \
    X(va_l4, "map the L4 writable", XEN_EBUSY, VA(victim, l4_mfn() * PAGE_SIZE | RW)) \
    X(va_l1, "map the page's own L1 writable", XEN_EBUSY, VA(victim, l1_mfn() * PAGE_SIZE | RW)) \
    X(va_l4_rw, "make the L4's own mapping writable", XEN_EBUSY, VA(start_info->pt_base, l4_mfn() * PAGE_SIZE | RW)) \
    X(va_cache, "map uncached, without a device", XEN_EINVAL, VA(victim, VICTIM_MFN * PAGE_SIZE | RW | PTE_PCD)) \
    X(va_xen, "map in Xen's memory", XEN_EINVAL, VA(XEN_MEMORY, VICTIM_MFN * PAGE_SIZE | RW)) \
    X(va_m2p, "map over the M2P table", XEN_EINVAL, VA(HYPERVISOR_VIRT_START, VICTIM_MFN * PAGE_SIZE | RW)) \
    X(va_low, "map where no table is", XEN_EINVAL, VA(UNMAPPED, VICTIM_MFN * PAGE_SIZE | RW)) \
    X(va_nc, "map at a non-canonical address", XEN_EINVAL, VA(NON_CANONICAL, VICTIM_MFN * PAGE_SIZE | RW)) \
    X(va_nodom, "map a page of no domain", XEN_ESRCH, \
      HYPERVISOR(update_va_mapping_otherdomain, victim, VICTIM_MFN * PAGE_SIZE | RW, 0, NO_DOMAIN)) \
    X(va_dom0, "map a page of domain 0", XEN_EPERM, \
      HYPERVISOR(update_va_mapping_otherdomain, victim, VICTIM_MFN * PAGE_SIZE | RW, 0, 0))

static long gdt(uint64_t mfn, unsigned entries)
{
    uint64_t frames[16];
    for (unsigned i = 0; i < ARRAY_SIZE(frames); i++)
        frames[i] = mfn;
    return HYPERVISOR(set_gdt, frames, entries);
}

#define DESCRIPTORS(X) \
    X(gdt_wild, "set_gdt: a wild frame", XEN_EINVAL, gdt(WILD_MFN, 512)) \
    X(gdt_max, "set_gdt: frame ~0", XEN_EINVAL, gdt(~0UL, 512)) \
    X(gdt_rw, "set_gdt: a writable page", XEN_EINVAL, gdt(VICTIM_MFN, 512)) \
    X(gdt_l4, "set_gdt: the L4", XEN_EINVAL, gdt(l4_mfn(), 512)) \
    X(gdt_many, "set_gdt: over Xen's own entries", XEN_EINVAL, gdt(VICTIM_MFN, 7169)) \
    X(gdt_huge, "set_gdt: 2^32-1 entries", XEN_EINVAL, gdt(VICTIM_MFN, ~0U)) \
    X(gdt_xen, "set_gdt: list in Xen's memory", XEN_EFAULT, HYPERVISOR(set_gdt, XEN_MEMORY, 512)) \
    X(ud_wild, "update_descriptor: a wild frame", XEN_EINVAL, HYPERVISOR(update_descriptor, WILD_MFN * PAGE_SIZE, 0)) \
    X(ud_align, "update_descriptor: not aligned", XEN_EINVAL, HYPERVISOR(update_descriptor, virt_to_maddr(victim) + 1, 0)) \
    X(ud_l4, "update_descriptor: in the L4", XEN_EINVAL, HYPERVISOR(update_descriptor, l4_mfn() * PAGE_SIZE, 0)) \
    X(ud_l1, "update_descriptor: in an L1", XEN_EINVAL, HYPERVISOR(update_descriptor, l1_mfn() * PAGE_SIZE, 0)) \
    X(ud_max, "update_descriptor: at the top of all", XEN_EINVAL, HYPERVISOR(update_descriptor, ~7UL, 0)) \
    X(ud_ldt, "update_descriptor: an LDT", XEN_EINVAL, HYPERVISOR(update_descriptor, virt_to_maddr(victim), 0x0000820000000067)) \
    X(ud_tss, "update_descriptor: a task segment", XEN_EINVAL, \
      HYPERVISOR(update_descriptor, virt_to_maddr(victim), 0x00008b0000000067)) \
    X(ud_intgate, "update_descriptor: an interrupt gate", XEN_EINVAL, \
      HYPERVISOR(update_descriptor, virt_to_maddr(victim), 0x0000ee0000080000)) \
    X(ud_gate64, "update_descriptor: call gate to Xen's code", XEN_EINVAL, \
      HYPERVISOR(update_descriptor, virt_to_maddr(victim), 0x0000ec00e0080000))

static uint64_t extent;

static long reserve(unsigned op, uint64_t frame, uint64_t count, unsigned order, uint16_t domain)
{
    struct xen_memory_reservation reservation = {&extent, count, order, 0, domain};
    extent = frame;
    return HYPERVISOR(memory_op, op, &reservation);
}

static long of_domain(unsigned op, uint16_t domain)
{
    return HYPERVISOR(memory_op, op, &domain);
}

static long add_to_physmap(uint16_t domain)
{
    struct {
        uint16_t domid, size;
        uint32_t space;
        uint64_t idx, gpfn;
    } add = {domain, 0, 0, 0, 0};
    return HYPERVISOR(memory_op, XENMEM_add_to_physmap, &add);
}

#define RESERVATION(X) \
    X(mo_unknown, "memory_op: command 60", XEN_ENOSYS, HYPERVISOR(memory_op, 60, victim)) \
    X(mo_xen, "memory_op: argument in Xen's memory", XEN_EFAULT, HYPERVISOR(memory_op, XENMEM_current_reservation, XEN_MEMORY)) \
    X(mo_res_dom0, "reservation of domain 0", XEN_EPERM, of_domain(XENMEM_current_reservation, 0)) \
    X(mo_res_nodom, "reservation of no domain", XEN_ESRCH, of_domain(XENMEM_maximum_reservation, NO_DOMAIN)) \
    X(mo_map, "machine memory map", XEN_EPERM, HYPERVISOR(memory_op, XENMEM_machine_memory_map, victim)) \
    X(mo_dec_wild, "give back a wild frame", NOTHING_DONE, reserve(XENMEM_decrease_reservation, WILD_MFN, 1, 0, DOMID_SELF)) \
    X(mo_dec_huge, "give back 2^60 frames", NOTHING_DONE, \
      reserve(XENMEM_decrease_reservation, WILD_MFN, 1UL << 60, 0, DOMID_SELF)) \
    X(mo_inc_order, "take an extent of order 63", NOTHING_DONE, reserve(XENMEM_increase_reservation, 0, 1, 63, DOMID_SELF)) \
    X(mo_pop_order, "populate an extent of order 40", NOTHING_DONE, reserve(XENMEM_populate_physmap, 0, 1, 40, DOMID_SELF)) \
    X(mo_pop_xen, "populate: argument in Xen's memory", NOTHING_DONE, \
      HYPERVISOR(memory_op, XENMEM_populate_physmap, XEN_MEMORY)) \
    X(mo_physmap, "add_to_physmap", XEN_EACCES, add_to_physmap(DOMID_SELF)) \
    X(mo_exchange, "exchange: argument in Xen's memory", XEN_EFAULT, HYPERVISOR(memory_op, XENMEM_exchange, XEN_MEMORY))

struct grant_copy {
    uint64_t source;
    uint16_t source_domain, source_offset;
    uint64_t dest;
    uint16_t dest_domain, dest_offset;
    uint32_t padding;
    uint16_t length, flags;
    int16_t status;
};

static long grant_copy(uint64_t source, uint64_t dest, unsigned offset, unsigned length, unsigned domain)
{
    struct grant_copy copy = {source, domain, offset, dest, DOMID_SELF, 0, 0, length, 0, 0};
    long error = HYPERVISOR(grant_table_op, 5, &copy, 1);
    return error ? error : copy.status;
}

static long grant_unmap(uint32_t handle)
{
    struct {
        uint64_t host_addr, dev_bus_addr;
        uint32_t handle;
        int16_t status;
    } unmap = {(uint64_t)victim, 0, handle, 0};
    long error = HYPERVISOR(grant_table_op, 1, &unmap, 1);
    return error ? error : unmap.status;
}

static long grant_setup(uint16_t domain, uint32_t frames)
{
    static uint64_t list[64];
    struct {
        uint16_t domain;
        uint32_t frames;
        int16_t status;
        uint64_t *list;
    } setup = {domain, frames, 0, list};
    long error = HYPERVISOR(grant_table_op, 2, &setup, 1);
    return error ? error : setup.status;
}

static long grant_version(uint32_t version)
{
    return HYPERVISOR(grant_table_op, 8, &version, 1);
}

static long grant_swap(uint32_t a, uint32_t b)
{
    struct {
        uint32_t a, b;
        int16_t status;
    } swap = {a, b, 0};
    long error = HYPERVISOR(grant_table_op, 11, &swap, 1);
    return error ? error : swap.status;
}

#define GRANTS(X) \
    X(gr_copy_l4, "copy into the L4 (status)", GENERAL_ERROR, grant_copy(VICTIM_MFN, l4_mfn(), 0, 8, DOMID_SELF)) \
    X(gr_copy_l1, "copy into an L1 (status)", GENERAL_ERROR, grant_copy(VICTIM_MFN, l1_mfn(), 0, 8, DOMID_SELF)) \
    X(gr_copy_wild, "copy from a wild frame (status)", BAD_PAGE, grant_copy(WILD_MFN, VICTIM_MFN, 0, 8, DOMID_SELF)) \
    X(gr_copy_long, "copy over a page's end (status)", BAD_COPY_ARG, grant_copy(VICTIM_MFN, VICTIM_MFN, 4095, 2, DOMID_SELF)) \
    X(gr_copy_huge, "copy 65535 bytes (status)", BAD_COPY_ARG, grant_copy(VICTIM_MFN, VICTIM_MFN, 0, 65535, DOMID_SELF)) \
    X(gr_copy_dom0, "copy a frame of domain 0 (status)", PERMISSION_DENIED, grant_copy(1, VICTIM_MFN, 0, 8, 0)) \
    X(gr_unmap, "unmap a handle never given (status)", BAD_HANDLE, grant_unmap(5)) \
    X(gr_unmap_max, "unmap handle ~0 (status)", BAD_HANDLE, grant_unmap(~0U)) \
    X(gr_setup_huge, "a table of 2^32-1 frames (status)", GENERAL_ERROR, grant_setup(DOMID_SELF, ~0U)) \
    X(gr_setup_dom0, "domain 0's table (status)", PERMISSION_DENIED, grant_setup(0, 1)) \
    X(gr_setup_nodom, "no domain's table (status)", BAD_DOMAIN, grant_setup(NO_DOMAIN, 1)) \
    X(gr_version, "version 3", XEN_EINVAL, grant_version(3)) \
    X(gr_swap, "swap with entry 2^31 (status)", BAD_REF, grant_swap(8, 1U << 31)) \
    X(gr_cont, "map with a continuation's bits", XEN_EINVAL, HYPERVISOR(grant_table_op, 0x1000, victim, 1)) \
    X(gr_two, "set up two tables at once", XEN_EINVAL, HYPERVISOR(grant_table_op, 2, victim, 2)) \
    X(gr_status, "a status list in Xen's memory", XEN_EFAULT, HYPERVISOR(grant_table_op, 9, XEN_MEMORY, 1))

PAGE_TABLES(CALL_DEFINE) EXTENDED(CALL_DEFINE) MAPPINGS(CALL_DEFINE) DESCRIPTORS(CALL_DEFINE) RESERVATION(CALL_DEFINE) GRANTS(CALL_DEFINE)

static const struct attempt page_tables[] = {PAGE_TABLES(CALL_ROW)}, extended[] = {EXTENDED(CALL_ROW)},
                            mappings[] = {MAPPINGS(CALL_ROW)}, descriptors[] = {DESCRIPTORS(CALL_ROW)},
                            reservation[] = {RESERVATION(CALL_ROW)}, grants[] = {GRANTS(CALL_ROW)};

const struct table mm_tables[] = {
    CALLS("Page tables by mmu_update", page_tables),
    CALLS("Page tables by mmuext_op", extended),
    CALLS("Mappings by update_va_mapping", mappings),
    CALLS("Descriptor tables", descriptors),
    CALLS("The memory reservation", reservation),
    CALLS("Grants", grants),
    {NULL, NULL, 0, false, NULL, NULL},
};
