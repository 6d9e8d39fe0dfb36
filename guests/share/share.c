/*
 * Two of these grant each other all their pages and map, write, copy, unmap and revoke them as fast as they can, looking at every
 * byte that can be known. What comes out wrong is told and counted.
 *
 * Command line: peer=2 (its domain) hold=0 (1: map everything once, and only copy from then on) rounds=0 (0: for ever; else let all
 * go after so many rounds, and wait until the other has) measure=0 (1: say what an operation costs, by the length of its list)
 */
#include "drivers.h"

#define PAGES 8
#define MOST 64 /* operations to a hypercall */
#define FIRST 8 /* GNTTAB_NR_RESERVED_ENTRIES */
#define WORDS (PAGE_SIZE / sizeof(uint64_t))
#define COPIED_IN (WORDS - 1)
#define MAPPED_IN (WORDS - 2)
#define MARK 0x5a5a000000000000UL
#define IN_USE (GTF_reading | GTF_writing)

static uint64_t pages[2 * PAGES][WORDS] __attribute__((aligned(4096))); /* two behind each reference, in turn */
static uint64_t window[PAGES][WORDS] __attribute__((aligned(4096)));
static uint64_t buffer[WORDS] __attribute__((aligned(4096)));
static volatile struct grant_entry_v1 *table;
static uint32_t handles[PAGES];
static bool mapped[PAGES], writable[PAGES];
static unsigned behind[PAGES]; /* which of its two pages a reference grants */
static unsigned long self, peer, maps, copies, refused, revoked, busy, gone, wrong;

static void complain(const char *what, unsigned page, unsigned long value)
{
    if (wrong++ < 5)
        printf("share: WRONG: %s, page %u: %#lx\n", what, page, value);
}

static uint64_t pattern(unsigned long domain, unsigned page, unsigned word)
{
    return domain << 48 | (uint64_t)page << 32 | word;
}

static void fill(unsigned page)
{
    uint64_t *words = pages[page * 2 + behind[page]];
    for (unsigned n = 0; n < WORDS; n++)
        words[n] = pattern(self, page, n);
}

static void check(const volatile uint64_t *words, unsigned long domain, unsigned page, const char *what)
{
    for (unsigned n = 0; n < MAPPED_IN; n++)
        if (words[n] != pattern(domain, page, n)) {
            complain(what, page, words[n]);
            return;
        }
    for (unsigned n = MAPPED_IN; n < WORDS; n++)
        if (words[n] != pattern(domain, page, n) && words[n] >> 48 != MARK >> 48)
            complain(what, page, words[n]);
}

/* Whether it went well; a revoked grant, or a domain that is gone, is no mistake. */
static bool well(int status, const char *what, unsigned page)
{
    if (status == GNTST_general_error)
        refused++;
    else if (status == GNTST_bad_domain)
        gone++;
    else if (status)
        complain(what, page, (unsigned long)status);
    return !status;
}

static void permit(unsigned page)
{
    table[FIRST + page].frame = virt_to_mfn(pages[page * 2 + behind[page]]);
    table[FIRST + page].domid = peer;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the entry is whole before it is valid */
    table[FIRST + page].flags = GTF_permit_access;
}

/* gnttab_end_foreign_access: not while the other uses it. */
static bool revoke(unsigned page)
{
    uint16_t flags = table[FIRST + page].flags;
    if (flags & IN_USE || !__atomic_compare_exchange_n(&table[FIRST + page].flags, &flags, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        busy++;
        return false;
    }
    revoked++;
    return true;
}

/* What was revoked is nobody else's: nothing changes in it, and the other page takes its place. */
static void exchange(unsigned page)
{
    if (!revoke(page))
        return;
    uint64_t *old = pages[page * 2 + behind[page]];
    check(old, self, page, "own page before its revocation");
    memset(old, 0xdd, PAGE_SIZE);
    behind[page] ^= 1;
    fill(page);
    permit(page);
    HYPERVISOR(sched_op, SCHEDOP_yield, 0);
    for (unsigned n = 0; n < WORDS; n++)
        if (old[n] != 0xddddddddddddddddUL) {
            complain("written after its revocation", page, old[n]);
            return;
        }
}

static void map(unsigned first, unsigned count, bool readonly)
{
    struct gnttab_map_grant_ref list[PAGES];
    memset(list, 0, sizeof(list));
    for (unsigned n = 0; n < count; n++) {
        list[n].host_addr = (unsigned long)window[first + n];
        list[n].flags = GNTMAP_host_map | (readonly ? GNTMAP_readonly : 0);
        list[n].ref = FIRST + first + n;
        list[n].dom = peer;
    }
    if (HYPERVISOR(grant_table_op, GNTTABOP_map_grant_ref, list, count))
        panic("the list of maps was refused");
    for (unsigned n = 0; n < count; n++) {
        if (!well(list[n].status, "map", first + n))
            continue;
        maps++;
        mapped[first + n] = true;
        writable[first + n] = !readonly;
        handles[first + n] = list[n].handle;
    }
}

static void use(unsigned page)
{
    volatile uint64_t *words = window[page];
    check(words, peer, page, "mapped page");
    if (writable[page])
        words[MAPPED_IN] = MARK | maps;
}

static void unmap(unsigned page)
{
    struct gnttab_unmap_grant_ref one = {.host_addr = (unsigned long)window[page], .handle = handles[page]};
    if (HYPERVISOR(grant_table_op, GNTTABOP_unmap_grant_ref, &one, 1) || one.status)
        complain("unmap", page, (unsigned long)one.status);
    mapped[page] = false;
}

static void unmap_all(void)
{
    for (unsigned page = 0; page < PAGES; page++)
        if (mapped[page])
            unmap(page);
}

static void copy(unsigned page, bool in)
{
    struct gnttab_copy one;
    memset(&one, 0, sizeof(one));
    uint64_t word = MARK | copies;
    memcpy(buffer + COPIED_IN, &word, sizeof(word));
    if (in) {
        one.source.u = FIRST + page, one.source.domid = peer, one.dest.u = virt_to_mfn(buffer), one.dest.domid = DOMID_SELF;
        one.len = PAGE_SIZE, one.flags = GNTCOPY_source_gref;
    } else {
        one.source.u = virt_to_mfn(buffer), one.source.domid = DOMID_SELF, one.dest.u = FIRST + page, one.dest.domid = peer;
        one.source.offset = one.dest.offset = COPIED_IN * sizeof(word), one.len = sizeof(word), one.flags = GNTCOPY_dest_gref;
    }
    if (HYPERVISOR(grant_table_op, GNTTABOP_copy, &one, 1))
        panic("a copy was refused as a whole");
    if (!well(one.status, "copy", page))
        return;
    copies++;
    if (in)
        check(buffer, peer, page, "copied page");
}

static unsigned chance(void)
{
    static uint64_t state = 88172645463325252UL;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 33) ^ (unsigned)self;
}

static void step(bool hold)
{
    unsigned page = chance() % PAGES;
    switch (hold ? 4 + chance() % 3 : chance() % 8) {
    case 0:
        if (!mapped[page])
            map(page, 1, chance() & 1);
        break;
    case 1: {
        unsigned count = 0;
        while (page + count < PAGES && !mapped[page + count])
            count++;
        if (count)
            map(page, count, chance() & 1);
        break;
    }
    case 2:
        if (mapped[page])
            unmap(page);
        break;
    case 3:
        exchange(page);
        break;
    case 4:
        copy(page, true);
        break;
    case 5:
        copy(page, false);
        break;
    default:
        if (mapped[page])
            use(page);
    }
}

static void tell(const char *how)
{
    printf("share: %s: %lu maps, %lu copies, %lu refused, %lu revoked, %lu busy, %lu gone, %lu wrong\n", how, maps, copies, refused, revoked,
           busy, gone, wrong);
}

/* ns an operation: copies of 64 bytes out of the other's pages, or maps and unmaps of them, `length` to a hypercall. */
static uint64_t cost(unsigned length, bool mapping)
{
    static struct gnttab_copy copies_out[MOST];
    uint64_t began = now_ns(), done = 0;
    memset(copies_out, 0, sizeof(copies_out));
    for (; now_ns() - began < NSEC / 2; done += length) {
        if (mapping) {
            map(0, length, false);
            unmap_all();
            continue;
        }
        for (unsigned n = 0; n < length; n++) {
            copies_out[n].source.u = FIRST + n % PAGES, copies_out[n].source.domid = peer;
            copies_out[n].dest.u = virt_to_mfn(buffer), copies_out[n].dest.domid = DOMID_SELF;
            copies_out[n].len = 64, copies_out[n].flags = GNTCOPY_source_gref;
        }
        if (HYPERVISOR(grant_table_op, GNTTABOP_copy, copies_out, length) || copies_out[length - 1].status)
            panic("a copy was refused");
    }
    return (now_ns() - began) / done;
}

static void measure(void)
{
    while (!mapped[0]) /* until the other is there */
        map(0, 1, true);
    unmap_all();
    for (unsigned length = 1; length <= MOST; length *= 4) {
        printf("share: copy %u: %lu ns\n", length, cost(length, false));
        if (length <= PAGES)
            printf("share: map %u: %lu ns\n", length, cost(length, true));
    }
    printf("share: measured\n");
}

static void let_go(void)
{
    unmap_all();
    tell("let go");
    for (unsigned page = 0; page < PAGES; page++)
        while (!revoke(page))
            sleep_until(now_ns() + NSEC / 100, NULL);
    tell("ended");
    for (;;)
        sleep_until(now_ns() + NSEC, NULL);
}

void guest_main(void)
{
    char text[16];
    if (store_read("domid", text, sizeof(text)) < 1)
        panic("xenstore does not tell our domain");
    for (const char *at = text; *at; at++)
        self = self * 10 + (unsigned long)(*at - '0');
    peer = option_number("peer", "2", 0x7fef);
    bool hold = option_number("hold", "0", 1);
    unsigned long rounds = option_number("rounds", "0", 1UL << 40);
    table = grants_init();
    for (unsigned page = 0; page < PAGES; page++) {
        fill(page);
        permit(page);
    }
    printf("share: domain %lu with %lu\n", self, peer);
    if (option_number("measure", "0", 1))
        measure();
    for (unsigned page = 0; hold && page < PAGES;)
        if (map(page, PAGES - page, false), mapped[page])
            page = PAGES;
        else
            sleep_until(now_ns() + NSEC / 50, NULL);
    if (hold)
        tell("holding");
    uint64_t told = now_ns();
    for (unsigned long round = 1; !rounds || round <= rounds; round++) {
        step(hold);
        if (now_ns() - told > NSEC / 3) {
            told = now_ns();
            tell("going");
        }
    }
    let_go();
}
