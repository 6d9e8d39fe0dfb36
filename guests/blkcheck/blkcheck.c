/*
 * Fills a disk with patterns that no two places and no two passes share, in random order with many requests in flight, flushes, reads
 * everything back in another order and compares every word. THE DISK'S CONTENTS ARE LOST.
 *
 * Command line: disk=51712 mib=0 (all of it) kib=44 (of one request) depth=32 queues=1 order=2 passes=1 (0: for ever) seed=1
 */
#include "drivers.h"

#define DATA_PAGES 448
#define SECTOR 512
#define STALL (20 * NSEC)

struct place {
    bool busy, done;
    int status;
    uint64_t extent;
};

static char data[DATA_PAGES][PAGE_SIZE] __attribute__((aligned(4096)));
static uint32_t grefs[DATA_PAGES];
static struct place places[BLOCK_IN_FLIGHT];
static volatile unsigned finished; /* answers that nobody has looked at */
static unsigned depth, pages, room; /* requests in flight, pages of one, pages that one has for itself */
static uint64_t extents, seed;
static unsigned long failed, wrong;

static void answered(unsigned id, int status)
{
    places[id].status = status;
    places[id].done = true;
    finished++;
}

static bool any_finished(void)
{
    return finished != 0;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15UL;
    return x ^ x >> 29;
}

static uint64_t first_word(uint64_t pass, uint64_t sector)
{
    return mix(mix(sector + 1) + (pass << 48) + seed);
}

/* Every other request begins in the middle of a page, so that its first and last segments are parts. */
static char *buffer(unsigned id, uint64_t extent)
{
    return data[id * room] + (extent & 1 ? PAGE_SIZE / 2 : 0);
}

static unsigned sectors_of(uint64_t extent)
{
    uint64_t start = extent * pages * (PAGE_SIZE / SECTOR), left = block_disk.sectors - start;
    return left < pages * (PAGE_SIZE / SECTOR) ? left : pages * (PAGE_SIZE / SECTOR);
}

static void fill(unsigned id, uint64_t pass, uint64_t extent)
{
    uint64_t *words = (uint64_t *)buffer(id, extent), start = extent * pages * (PAGE_SIZE / SECTOR);
    for (unsigned sector = 0; sector < sectors_of(extent); sector++, words += SECTOR / 8) {
        uint64_t word = first_word(pass, start + sector);
        for (unsigned i = 0; i < SECTOR / 8; i++, word += 0x9e3779b97f4a7c15UL)
            words[i] = word;
    }
}

static void compare(unsigned id, uint64_t pass, uint64_t extent)
{
    const uint64_t *words = (const uint64_t *)buffer(id, extent), start = extent * pages * (PAGE_SIZE / SECTOR);
    for (unsigned sector = 0; sector < sectors_of(extent); sector++, words += SECTOR / 8) {
        uint64_t word = first_word(pass, start + sector);
        for (unsigned i = 0; i < SECTOR / 8; i++, word += 0x9e3779b97f4a7c15UL) {
            if (words[i] == word)
                continue;
            if (!wrong++)
                printf("blkcheck: sector %lu, byte %u: %016lx instead of %016lx\n", (unsigned long)(start + sector), i * 8, (unsigned long)words[i], (unsigned long)word);
            break;
        }
    }
}

static void submit(unsigned queue, unsigned operation, unsigned id, uint64_t extent)
{
    struct blkif_request_segment segments[BLOCK_IN_FLIGHT * 8];
    unsigned count = 0, shift = extent & 1 ? PAGE_SIZE / SECTOR / 2 : 0, left = sectors_of(extent);
    for (unsigned page = id * room; left; page++, shift = 0) {
        unsigned size = PAGE_SIZE / SECTOR - shift < left ? PAGE_SIZE / SECTOR - shift : left;
        segments[count++] = (struct blkif_request_segment){grefs[page], shift, shift + size - 1, 0};
        left -= size;
    }
    places[id] = (struct place){.busy = true, .extent = extent};
    block_submit(queue, operation, extent * pages * (PAGE_SIZE / SECTOR), segments, count, id);
}

static void wait_finished(void)
{
    if (!sleep_until(now_ns() + STALL, any_finished) && !any_finished())
        panic("no answer for %lu s", STALL / NSEC);
}

/* All extents in an order of their own; the nanoseconds it took. */
static uint64_t sweep(unsigned operation, uint64_t pass)
{
    uint64_t span = 1, next = 0, began = now_ns(), step = mix(seed + pass * 2 + operation) | 1;
    unsigned flying = 0, queue = 0;
    while (span < extents)
        span *= 2;
    while (next < span || flying) {
        for (unsigned id = 0; id < depth; id++) {
            struct place *place = &places[id];
            if (place->busy && place->done) {
                __atomic_fetch_sub(&finished, 1, __ATOMIC_SEQ_CST);
                place->busy = place->done = false;
                flying--;
                if (place->status != BLKIF_RSP_OKAY && !failed++)
                    printf("blkcheck: extent %lu: status %d\n", (unsigned long)place->extent, place->status);
                else if (place->status == BLKIF_RSP_OKAY && operation == BLKIF_OP_READ)
                    compare(id, pass, place->extent);
            }
            while (!place->busy && next < span) {
                uint64_t extent = (next++ * step + pass) & (span - 1);
                if (extent >= extents)
                    continue;
                if (operation == BLKIF_OP_WRITE)
                    fill(id, pass, extent);
                else
                    memset(data[id * room], 0xee, room * PAGE_SIZE);
                submit(queue, operation, id, extent);
                flying++;
                queue = (queue + 1) % block_disk.queues;
            }
        }
        for (unsigned n = 0; n < block_disk.queues; n++)
            block_push(n);
        if (flying)
            wait_finished();
    }
    return now_ns() - began;
}

/* One request alone; its status. */
static int single(unsigned operation, uint64_t sector, unsigned count)
{
    struct blkif_request_segment segment = {grefs[0], 0, 0, 0};
    places[0] = (struct place){.busy = true};
    block_submit(0, operation, sector, &segment, count, 0);
    block_push(0);
    wait_finished();
    __atomic_fetch_sub(&finished, 1, __ATOMIC_SEQ_CST);
    places[0].busy = false;
    return places[0].status;
}

static void expect(const char *what, int status, int wanted)
{
    if (status == wanted)
        return;
    failed++;
    printf("blkcheck: %s: status %d instead of %d\n", what, status, wanted);
}

static unsigned long rate(uint64_t bytes, uint64_t ns)
{
    return bytes * 1000 / (ns ? ns : 1);
}

void guest_main(void)
{
    unsigned device = option_number("disk", "51712", 1u << 30);
    unsigned long mib = option_number("mib", "0", 1 << 20), kib = option_number("kib", "44", 256), passes = option_number("passes", "1", 1000000);
    depth = option_number("depth", "32", BLOCK_IN_FLIGHT);
    seed = option_number("seed", "1", 1000000000);
    if (!block_init(device, option_number("queues", "1", BLOCK_QUEUES), option_number("order", "2", 3), answered))
        panic("no disk %u: disk = [ 'vdev=xvda,target=…' ]", device);
    for (unsigned page = 0; page < DATA_PAGES; page++)
        grefs[page] = grant_page(data[page], false);
    pages = kib / 4 ? kib / 4 : 1;
    if (pages >= block_disk.segments)
        pages = block_disk.segments - 1; /* one that begins in the middle of a page needs one more */
    room = pages + 1;
    if (!depth || depth * room > DATA_PAGES)
        depth = DATA_PAGES / room;
    printf("blkcheck: %lu sectors, %u queues of %u slots, up to %u segments%s%s%s\n", (unsigned long)block_disk.sectors, block_disk.queues,
           block_disk.slots, block_disk.segments, block_disk.persistent ? ", persistent" : "", block_disk.flush ? ", flush" : "",
           block_disk.readonly ? ", read-only" : "");
    if (block_disk.readonly) {
        expect("a write to a read-only disk", single(BLKIF_OP_WRITE, 0, 1), BLKIF_RSP_ERROR);
        printf("blkcheck: read-only, %lu errors\n", failed);
        return;
    }
    uint64_t sectors = mib && mib * 2048 < block_disk.sectors ? mib * 2048 : block_disk.sectors, bytes = sectors * SECTOR;
    extents = (sectors + pages * (PAGE_SIZE / SECTOR) - 1) / (pages * (PAGE_SIZE / SECTOR));
    printf("blkcheck: %lu MiB in requests of %u KiB, %u in flight\n", (unsigned long)(bytes >> 20), pages * 4, depth);
    for (uint64_t pass = 1; !passes || pass <= passes; pass++) {
        uint64_t writing = sweep(BLKIF_OP_WRITE, pass), began = now_ns();
        if (block_disk.flush)
            expect("flush", single(BLKIF_OP_FLUSH_DISKCACHE, 0, 0), BLKIF_RSP_OKAY);
        uint64_t flushing = now_ns() - began, reading = sweep(BLKIF_OP_READ, pass);
        expect("a read behind the end", single(BLKIF_OP_READ, block_disk.sectors, 1), BLKIF_RSP_ERROR);
        expect("a write far behind the end", single(BLKIF_OP_WRITE, ~0UL, 1), BLKIF_RSP_ERROR);
        expect("an unknown operation", single(77, 0, 1), BLKIF_RSP_EOPNOTSUPP);
        printf("blkcheck: pass %lu: wrote %lu MB/s, flushed in %lu us, read %lu MB/s; %lu errors, %lu sectors wrong\n", (unsigned long)pass,
               rate(bytes, writing), (unsigned long)(flushing / 1000), rate(bytes, reading), failed, wrong);
    }
}
