/*
 * Tables made by hand, Xen's own frames, lists that run over what is mapped, grants to ourselves: each way to a writable page table or to
 * another's memory that takes some preparation. What is made is taken back whatever came of it.
 */
#include "calls.h"

static char made[2][PAGE_SIZE] __attribute__((aligned(4096)));
static char grants[PAGE_SIZE] __attribute__((aligned(4096)));

static uint64_t mfn(int which)
{
    return virt_to_mfn(made[which]);
}

/* A page's own mapping anew, with these flags */
static long protect(void *page, uint64_t flags)
{
    return HYPERVISOR(update_va_mapping, page, virt_to_maddr(page) | flags, UVMF_INVLPG);
}

/* What pinning says of a table at a level that has one entry. */
static long pin_made(int level, unsigned slot, uint64_t value)
{
    memset(made[0], 0, PAGE_SIZE);
    ((uint64_t *)made[0])[slot] = value;
    protect(made[0], PTE_PRESENT);
    long error = ext(MMUEXT_PIN_L1_TABLE + level - 1, mfn(0), 0, DOMID_SELF);
    if (!error)
        ext(MMUEXT_UNPIN_TABLE, mfn(0), 0, DOMID_SELF);
    protect(made[0], RW);
    return error;
}

/* The same of an L2 whose entry names an L1 with that entry. */
static long pin_two(uint64_t value)
{
    memset(made[1], 0, PAGE_SIZE);
    *(uint64_t *)made[1] = value;
    protect(made[1], PTE_PRESENT);
    long error = pin_made(2, 0, virt_to_maddr(made[1]) | RW);
    protect(made[1], RW);
    return error;
}

/* An empty L1 is pinned; what `what` does with it is told. */
static long with_pinned(long (*what)(void))
{
    memset(made[0], 0, PAGE_SIZE);
    protect(made[0], PTE_PRESENT);
    long error = ext(MMUEXT_PIN_L1_TABLE, mfn(0), 0, DOMID_SELF);
    if (!error)
        error = what();
    ext(MMUEXT_UNPIN_TABLE, mfn(0), 0, DOMID_SELF);
    protect(made[0], RW);
    return error;
}

static long map_it(void)
{
    return HYPERVISOR(update_va_mapping, victim, virt_to_maddr(made[0]) | RW, UVMF_INVLPG);
}

static long other_map_it(void)
{
    return HYPERVISOR(update_va_mapping_otherdomain, victim, virt_to_maddr(made[0]) | RW, UVMF_INVLPG, DOMID_SELF);
}

static long translate_it(void)
{
    return mmu(entry_at(1) | 3, virt_to_maddr(made[0]) | RW, DOMID_SELF);
}

static long unpin_twice(void)
{
    long error = ext(MMUEXT_UNPIN_TABLE, mfn(0), 0, DOMID_SELF);
    return error ? error : ext(MMUEXT_UNPIN_TABLE, mfn(0), 0, DOMID_SELF);
}

static long descriptors_of_it(void)
{
    uint64_t frame = mfn(0);
    return HYPERVISOR(set_gdt, &frame, 512);
}

static long info_in_it(void)
{
    uint64_t words[2] = {mfn(0), 0};
    return HYPERVISOR(vcpu_op, VCPUOP_register_vcpu_info, 0, words);
}

static long exchange(uint64_t frame, unsigned order, uint64_t count)
{
    static uint64_t in, out;
    struct {
        struct xen_memory_reservation in, out;
        uint64_t done;
    } request = {{&in, count, order, 0, DOMID_SELF}, {&out, count, order, 0, DOMID_SELF}, 0};
    in = frame;
    out = frame;
    return HYPERVISOR(memory_op, XENMEM_exchange, &request);
}

static long exchange_it(void)
{
    return exchange(mfn(0), 0, 1);
}

#define MADE(X) \
    X(p1_self, "pin an L1 that maps itself writable", XEN_EBUSY, pin_made(1, 0, virt_to_maddr(made[0]) | RW)) \
    X(p1_l4, "pin an L1 that maps the L4 writable", XEN_EBUSY, pin_made(1, 511, l4_mfn() * PAGE_SIZE | RW)) \
    X(p1_cache, "pin an L1 that maps a page uncached", XEN_EINVAL, pin_made(1, 7, virt_to_maddr(victim) | PTE_PRESENT | PTE_PCD)) \
    X(p1_pat, "pin an L1 with the PAT bit", XEN_EINVAL, pin_made(1, 7, virt_to_maddr(victim) | PTE_PRESENT | PTE_PSE)) \
    X(p1_wild, "pin an L1 that maps a wild frame", XEN_EPERM, pin_made(1, 0, WILD_MFN * PAGE_SIZE | PTE_PRESENT)) \
    X(p1_last, "pin an L1 that maps frame ~0", XEN_EINVAL, pin_made(1, 0, PTE_FRAME | PTE_PRESENT)) \
    X(p2_self, "pin an L2 that names itself, writable", XEN_EINVAL, pin_made(2, 0, virt_to_maddr(made[0]) | RW)) \
    X(p2_data, "pin an L2 that names a page of data", XEN_EINVAL, pin_made(2, 511, virt_to_maddr(victim) | RW)) \
    X(p2_pse, "pin an L2 with a superpage", XEN_EINVAL, pin_made(2, 0, RW | PTE_PSE)) \
    X(p2_global, "pin an L2 with the global bit", XEN_EINVAL, pin_made(2, 0, l1_mfn() * PAGE_SIZE | RW | 0x100)) \
    X(p2_l4, "pin an L2 that names the L4", XEN_EINVAL, pin_made(2, 0, l4_mfn() * PAGE_SIZE | PTE_PRESENT)) \
    X(p2_deep, "pin an L2 whose L1 maps the L4 writable", XEN_EBUSY, pin_two(l4_mfn() * PAGE_SIZE | RW)) \
    X(p2_deep_self, "pin an L2 whose L1 maps the L1 writable", XEN_EBUSY, pin_two(virt_to_maddr(made[1]) | RW)) \
    X(p2_deep_up, "pin an L2 whose L1 maps the L2 writable", XEN_EBUSY, pin_two(virt_to_maddr(made[0]) | RW)) \
    X(p3_l1, "pin an L3 that names an L1", XEN_EINVAL, pin_made(3, 0, l1_mfn() * PAGE_SIZE | RW)) \
    X(p3_self, "pin an L3 that names itself, writable", XEN_EINVAL, pin_made(3, 3, virt_to_maddr(made[0]) | RW)) \
    X(p3_pse, "pin an L3 with a superpage", XEN_EINVAL, pin_made(3, 0, RW | PTE_PSE)) \
    X(p4_l1, "pin an L4 that names an L1", XEN_EINVAL, pin_made(4, 0, l1_mfn() * PAGE_SIZE | RW)) \
    X(p4_self, "pin an L4 that names itself, writable", XEN_EINVAL, pin_made(4, 511, virt_to_maddr(made[0]) | RW)) \
    X(p4_last, "pin an L4 that names frame ~0", XEN_EINVAL, pin_made(4, 0, PTE_FRAME | RW)) \
    X(pin_map, "map a pinned L1 writable", XEN_EBUSY, with_pinned(map_it)) \
    X(pin_other, "the same in the name of DOMID_SELF", XEN_EBUSY, with_pinned(other_map_it)) \
    X(pin_nt, "the same without translation", XEN_EBUSY, with_pinned(translate_it)) \
    X(pin_twice, "unpin an L1 twice", XEN_EINVAL, with_pinned(unpin_twice)) \
    X(pin_gdt, "a pinned L1 as GDT", XEN_EINVAL, with_pinned(descriptors_of_it)) \
    X(pin_info, "vcpu_info in a pinned L1", XEN_EINVAL, with_pinned(info_in_it)) \
    X(pin_exchange, "exchange a pinned L1", XEN_EINVAL, with_pinned(exchange_it))

/* Xen's own frames can be learned: slot 256 of every L4 names the M2P's L3. */
static uint64_t m2p(void)
{
    return *(const uint64_t *)(start_info->pt_base + 256 * 8) & PTE_FRAME;
}

static uint16_t own_domain(void)
{
    char digits[8] = "";
    unsigned domain = 0;
    store_read("domid", digits, sizeof(digits));
    for (const char *digit = digits; *digit; digit++)
        domain = domain * 10 + *digit - '0';
    return domain;
}

/* Entry 9 of our table gives a frame to ourselves. */
static long grant_to_self(uint64_t frame)
{
    static uint64_t table;
    struct {
        uint16_t domain;
        uint32_t frames;
        int16_t status;
        uint64_t *list;
    } setup = {DOMID_SELF, 1, 0, &table};
    if (HYPERVISOR(grant_table_op, 2, &setup, 1) || setup.status || map_frame(grants, table * PAGE_SIZE | RW))
        return -1000;
    volatile uint32_t *entry = (volatile uint32_t *)grants + 9 * 2;
    entry[1] = frame;
    barrier();
    entry[0] = own_domain() << 16 | 1;
    return 0;
}

struct grant_map {
    uint64_t address;
    uint32_t flags, ref;
    uint16_t domain;
    int16_t status;
    uint32_t handle;
    uint64_t bus;
};

static long map_self(uint64_t frame, uint64_t address, uint32_t flags, uint32_t ref, uint32_t *handle)
{
    struct grant_map map = {address, flags, ref, own_domain(), 0, 0, 0};
    long error = grant_to_self(frame);
    if (!error)
        error = HYPERVISOR(grant_table_op, 0, &map, 1);
    if (handle)
        *handle = map.handle;
    return error ? error : map.status;
}

static long unmap_self(uint64_t address, uint32_t handle)
{
    struct {
        uint64_t address, bus;
        uint32_t handle;
        int16_t status;
    } unmap = {address, 0, handle, 0};
    long error = HYPERVISOR(grant_table_op, 1, &unmap, 1);
    return error ? error : unmap.status;
}

#define HOST 2 /* GNTMAP_host_map */
#define CONTAINS_PTE 16

/* A grant of the victim page, mapped over made[1]; then what is told of the second step. */
static long mapped(int step)
{
    uint32_t handle = 0;
    uint64_t at = (uint64_t)made[1];
    long error = map_self(VICTIM_MFN, at, HOST, 9, &handle);
    if (error)
        return -1001;
    uint32_t version = 2;
    switch (step) {
    case 0: /* twice */
        error = unmap_self(at, handle);
        error = error ? -1002 : unmap_self(at, handle);
        break;
    case 1: /* elsewhere */
        error = unmap_self((uint64_t)made[0], handle);
        unmap_self(at, handle);
        break;
    case 2: /* another version under a mapping */
        error = HYPERVISOR(grant_table_op, 8, &version, 1);
        unmap_self(at, handle);
        break;
    case 3: /* made a table while it is mapped writable by the grant alone */
        protect(victim, 0);
        error = ext(MMUEXT_PIN_L1_TABLE, pfn_to_mfn(((unsigned long)victim - (unsigned long)image_start) / PAGE_SIZE), 0, DOMID_SELF);
        protect(victim, RW);
        unmap_self(at, handle);
        break;
    default: /* the entry is cleared behind the grant's back */
        map_frame(made[1], 0);
        error = unmap_self(at, handle);
    }
    map_frame(made[1], virt_to_maddr(made[1]) | RW);
    return error;
}

#define OWNED(X) \
    X(x_map, "map the M2P's L3 writable", XEN_EBUSY, HYPERVISOR(update_va_mapping, victim, m2p() | RW, UVMF_INVLPG)) \
    X(x_map_ro, "map the M2P's L3 read-only", XEN_EBUSY, mmu(entry_at(1), m2p() | PTE_PRESENT, DOMID_SELF)) \
    X(x_l4, "the M2P in another slot of the L4", XEN_EINVAL, mmu(l4_mfn() * PAGE_SIZE + 300 * 8, m2p() | RW, DOMID_SELF)) \
    X(x_l3, "the M2P's L3 named by an L3", XEN_EINVAL, mmu((entry_at(3) & ~0xfffUL) + 8, m2p() | PTE_PRESENT, DOMID_SELF)) \
    X(x_write, "an entry in the M2P's L3", XEN_EINVAL, mmu(m2p(), 0, DOMID_SELF)) \
    X(x_m2p, "the M2P of a frame of Xen's", XEN_EINVAL, mmu(m2p() | MMU_MACHPHYS_UPDATE, 0, DOMID_SELF)) \
    X(x_pin, "pin the M2P's L3", XEN_EINVAL, ext(MMUEXT_PIN_L3_TABLE, m2p() / PAGE_SIZE, 0, DOMID_SELF)) \
    X(x_unpin, "unpin the M2P's L3", XEN_EINVAL, ext(MMUEXT_UNPIN_TABLE, m2p() / PAGE_SIZE, 0, DOMID_SELF)) \
    X(x_base, "the M2P's L3 as new base pointer", XEN_EINVAL, ext(MMUEXT_NEW_BASEPTR, m2p() / PAGE_SIZE, 0, DOMID_SELF)) \
    X(x_clear, "clear the M2P's L3", XEN_EINVAL, ext(MMUEXT_CLEAR_PAGE, m2p() / PAGE_SIZE, 0, DOMID_SELF)) \
    X(x_copy, "copy the M2P's L3", XEN_EINVAL, ext(MMUEXT_COPY_PAGE, VICTIM_MFN, m2p() / PAGE_SIZE, DOMID_SELF)) \
    X(x_gdt, "update_descriptor: in the M2P's L3", XEN_EINVAL, HYPERVISOR(update_descriptor, m2p(), 0)) \
    X(x_exchange, "exchange the M2P's L3", XEN_EINVAL, exchange(m2p() / PAGE_SIZE, 0, 1)) \
    X(x_order, "exchange an extent of order 63", XEN_EPERM, exchange(VICTIM_MFN, 63, 1)) \
    X(x_overflow, "exchange 2^61 extents of 16 frames", XEN_EINVAL, exchange(VICTIM_MFN, 4, 1UL << 61)) \
    X(x_io, "an L1 entry in the name of DOMID_IO", XEN_EBUSY, mmu(entry_at(1), VICTIM_MFN * PAGE_SIZE | PTE_PRESENT, DOMID_IO)) \
    X(x_io_l2, "an L2 entry in the name of DOMID_IO", XEN_EINVAL, mmu(entry_at(2), 0, DOMID_IO)) \
    X(x_io_cmd, "command 7 on pages of domain 0", XEN_ENOSYS, mmu(7, 0, 0)) \
    X(x_io_va, "map in the name of DOMID_IO", XEN_EPERM, \
      HYPERVISOR(update_va_mapping_otherdomain, victim, VICTIM_MFN * PAGE_SIZE | RW, 0, DOMID_IO)) \
    X(x_io_ext, "flush in the name of DOMID_IO", XEN_EPERM, ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0, DOMID_IO))

/* A list of `size` bytes an operation whose second lies where nothing is mapped. */
static void *cut_list(size_t size)
{
    memset(made[0], 0, PAGE_SIZE);
    map_frame(made[1], 0);
    return made[0] + PAGE_SIZE - size;
}

static long end_cut(long error)
{
    map_frame(made[1], virt_to_maddr(made[1]) | RW);
    return error;
}

static long cut_update(void)
{
    struct mmu_update *list = cut_list(sizeof(*list));
    uint32_t done = 99;
    *list = (struct mmu_update){virt_to_maddr(victim), 0};
    long error = end_cut(HYPERVISOR(mmu_update, list, 2, &done, DOMID_SELF));
    return done == 1 ? error : -1003;
}

static long cut_ext(void)
{
    struct mmuext_op *list = cut_list(sizeof(*list));
    uint32_t done = 99;
    list->cmd = MMUEXT_TLB_FLUSH_LOCAL;
    long error = end_cut(HYPERVISOR(mmuext_op, list, 2, &done, DOMID_SELF));
    return done == 1 ? error : -1003;
}

static long cut_multicall(void)
{
    struct multicall_entry *list = cut_list(sizeof(*list));
    list->op = __HYPERVISOR_xen_version;
    return end_cut(HYPERVISOR(multicall, list, 2));
}

static long cut_gdt(void)
{
    uint64_t *list = cut_list(sizeof(*list));
    *list = VICTIM_MFN;
    return end_cut(HYPERVISOR(set_gdt, list, 1024));
}

static long info_at(uint32_t offset)
{
    struct {
        uint64_t frame;
        uint32_t offset, rsvd;
    } info = {VICTIM_MFN, offset, 0};
    return HYPERVISOR(vcpu_op, VCPUOP_register_vcpu_info, 0, &info);
}

static long flush_by_mask(unsigned long kind)
{
    return HYPERVISOR(update_va_mapping, victim, VICTIM_MFN * PAGE_SIZE | RW, XEN_MEMORY | kind);
}

#define LISTS(X) \
    X(l_mmu, "mmu_update: a list that leaves its page", XEN_EFAULT, cut_update()) \
    X(l_ext, "mmuext_op: a list that leaves its page", XEN_EFAULT, cut_ext()) \
    X(l_multi, "multicall: a list that leaves its page", XEN_EFAULT, cut_multicall()) \
    X(l_gdt, "set_gdt: a list that leaves its page", XEN_EFAULT, cut_gdt()) \
    X(l_top, "mmu_update: a list over the top of all", XEN_EFAULT, HYPERVISOR(mmu_update, -16L, 2, 0, DOMID_SELF)) \
    X(l_below, "mmu_update: a list into Xen's range", XEN_EFAULT, \
      HYPERVISOR(mmu_update, HYPERVISOR_VIRT_START - 16, 2, 0, DOMID_SELF)) \
    X(l_info, "vcpu_info over a page's end", XEN_ENXIO, info_at(PAGE_SIZE - 32)) \
    X(l_info_odd, "vcpu_info not aligned", XEN_ENXIO, info_at(4)) \
    X(l_mask, "update_va_mapping: mask in Xen's memory", XEN_EFAULT, flush_by_mask(UVMF_TLB_FLUSH)) \
    X(l_mask_page, "the same for one page", XEN_EFAULT, flush_by_mask(UVMF_INVLPG))

#define NO_ENTRY (~0U >> 4)

#define TO_SELF(X) \
    X(g_l1, "map an L1 writable by a grant (status)", GENERAL_ERROR, map_self(l1_mfn(), (uint64_t)made[1], HOST, 9, NULL)) \
    X(g_l4, "map the L4 writable by a grant (status)", GENERAL_ERROR, map_self(l4_mfn(), (uint64_t)made[1], HOST, 9, NULL)) \
    X(g_xen, "map the M2P by a grant (status)", BAD_PAGE, map_self(m2p() / PAGE_SIZE, (uint64_t)made[1], HOST, 9, NULL)) \
    X(g_wild, "map a wild frame by a grant (status)", BAD_PAGE, map_self(WILD_MFN, (uint64_t)made[1], HOST, 9, NULL)) \
    X(g_none, "map a grant not given (status)", GENERAL_ERROR, map_self(VICTIM_MFN, (uint64_t)made[1], HOST, 8, NULL)) \
    X(g_beyond, "map a grant beyond the table (status)", BAD_REF, map_self(VICTIM_MFN, (uint64_t)made[1], HOST, NO_ENTRY, NULL)) \
    X(g_at_xen, "map a grant in Xen's memory (status)", GENERAL_ERROR, map_self(VICTIM_MFN, XEN_MEMORY, HOST, 9, NULL)) \
    X(g_at_nc, "map a grant non-canonical (status)", GENERAL_ERROR, map_self(VICTIM_MFN, NON_CANONICAL, HOST, 9, NULL)) \
    X(g_pte_odd, "a grant's entry not aligned (status)", GENERAL_ERROR, \
      map_self(VICTIM_MFN, entry_at(1) + 4, HOST | CONTAINS_PTE, 9, NULL)) \
    X(g_pte_l2, "a grant's entry in an L2 (status)", GENERAL_ERROR, \
      map_self(VICTIM_MFN, entry_at(2), HOST | CONTAINS_PTE, 9, NULL)) \
    X(g_pte_wild, "a grant's entry in a wild frame (status)", GENERAL_ERROR, \
      map_self(VICTIM_MFN, WILD_MFN * PAGE_SIZE, HOST | CONTAINS_PTE, 9, NULL)) \
    X(g_twice, "unmap a grant twice (status)", BAD_HANDLE, mapped(0)) \
    X(g_else, "unmap a grant elsewhere (status)", GENERAL_ERROR, mapped(1)) \
    X(g_version, "version 2 under a mapped grant", XEN_EBUSY, mapped(2)) \
    X(g_pin, "pin a page that a grant maps writable", XEN_EINVAL, mapped(3)) \
    X(g_stale, "unmap a grant whose entry is gone (status)", GENERAL_ERROR, mapped(4))

MADE(CALL_DEFINE) OWNED(CALL_DEFINE) LISTS(CALL_DEFINE) TO_SELF(CALL_DEFINE)

static const struct attempt made_by_hand[] = {MADE(CALL_ROW)}, owned[] = {OWNED(CALL_ROW)}, lists[] = {LISTS(CALL_ROW)},
                            to_self[] = {TO_SELF(CALL_ROW)};

const struct table made_tables[] = {
    CALLS("Tables made by hand", made_by_hand),
    CALLS("Frames of Xen's, and other names", owned),
    CALLS("Lists that leave their page", lists),
    CALLS("Grants to ourselves", to_self),
    {NULL, NULL, 0, false, NULL, NULL},
};
