/*
 * A block frontend (public/io/blkif.h): one disk, several queues where offered, rings of several pages, indirect segments. Its pages
 * are granted once and for all, which is what persistent grants ask of a frontend.
 */
#include "drivers.h"

struct queue {
    volatile struct ring_head *ring;
    uint32_t req_prod, rsp_cons; /* req_prod runs ahead of the ring's until block_push */
    uint32_t port;
    uint32_t grefs[BLOCK_RING_PAGES];
};

struct block_disk block_disk;

static char ring_pages[BLOCK_RING_PAGES][PAGE_SIZE] __attribute__((aligned(4096)));
static struct blkif_request_segment indirect_pages[BLOCK_IN_FLIGHT][PAGE_SIZE / sizeof(struct blkif_request_segment)]
    __attribute__((aligned(4096)));
static uint32_t indirect_grefs[BLOCK_IN_FLIGHT];
static struct queue queues[BLOCK_QUEUES];
static char front[32], back[128];
static void (*done)(unsigned id, int status);

#define fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static void *slot(struct queue *queue, uint32_t index)
{
    return (char *)queue->ring + sizeof(struct ring_head) + (index & (block_disk.slots - 1)) * BLKIF_SLOT;
}

static void handle(unsigned port)
{
    for (unsigned n = 0; n < block_disk.queues; n++) {
        struct queue *queue = &queues[n];
        if (queue->port != port)
            continue;
        do {
            while (queue->rsp_cons != queue->ring->rsp_prod) {
                fence();
                volatile struct blkif_response *response = slot(queue, queue->rsp_cons++);
                if (response->id >= BLOCK_IN_FLIGHT)
                    panic("vbd: an answer to request %lu", (unsigned long)response->id);
                done(response->id, response->status);
            }
            queue->ring->rsp_event = queue->rsp_cons + 1;
            fence();
        } while (queue->rsp_cons != queue->ring->rsp_prod);
    }
}

static unsigned long number(const char *folder, const char *key, unsigned long otherwise)
{
    char node[192], text[24];
    unsigned long value = 0;
    snprintf(node, sizeof(node), "%s/%s", folder, key);
    if (store_read(node, text, sizeof(text)) <= 0)
        return otherwise;
    for (const char *at = text; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (*at - '0');
    return value;
}

static void write_number(const char *folder, const char *key, unsigned long value)
{
    char node[96], text[24];
    snprintf(node, sizeof(node), "%s/%s", folder, key);
    snprintf(text, sizeof(text), "%lu", value);
    if (store_write(node, text))
        panic("vbd: %s cannot be written", node);
}

static void wait_backend(unsigned state)
{
    for (unsigned tries = 0; tries < 2000; tries++) {
        if (number(back, "state", 0) == state)
            return;
        sleep_until(now_ns() + 5000000, NULL);
    }
    panic("vbd: the backend stays in state %lu", number(back, "state", 0));
}

static void open_queue(unsigned n, unsigned order)
{
    struct queue *queue = &queues[n];
    char folder[64], key[16];
    queue->ring = (volatile struct ring_head *)ring_pages[n << order];
    queue->ring->req_event = queue->ring->rsp_event = 1;
    struct evtchn_alloc_unbound allocate = {DOMID_SELF, 0, 0};
    long error = HYPERVISOR(event_channel_op, EVTCHNOP_alloc_unbound, &allocate);
    if (error)
        panic("vbd: alloc_unbound returned %ld", error);
    queue->port = allocate.port;
    if (block_disk.queues > 1)
        snprintf(folder, sizeof(folder), "%s/queue-%u", front, n);
    else
        snprintf(folder, sizeof(folder), "%s", front);
    for (unsigned page = 0; page < 1u << order; page++) {
        queue->grefs[page] = grant_page(ring_pages[(n << order) + page], false);
        if (order)
            snprintf(key, sizeof(key), "ring-ref%u", page);
        write_number(folder, order ? key : "ring-ref", queue->grefs[page]);
    }
    write_number(folder, "event-channel", queue->port);
}

static unsigned least(unsigned long a, unsigned long b)
{
    return a < b ? a : b;
}

bool block_init(unsigned device, unsigned wanted, unsigned order, void (*answered)(unsigned id, int status))
{
    char node[64];
    done = answered;
    snprintf(front, sizeof(front), "device/vbd/%u", device);
    snprintf(node, sizeof(node), "%s/backend", front);
    if (store_read(node, back, sizeof(back)) < 0)
        return false;
    wait_backend(XenbusStateInitWait);
    wanted = wanted ? least(wanted, BLOCK_QUEUES) : 1;
    block_disk.queues = least(wanted, number(back, "multi-queue-max-queues", 1));
    order = least(order, number(back, "max-ring-page-order", 0));
    while (block_disk.queues << order > BLOCK_RING_PAGES)
        order--;
    block_disk.slots = 1;
    while (sizeof(struct ring_head) + 2 * block_disk.slots * BLKIF_SLOT <= PAGE_SIZE << order)
        block_disk.slots *= 2;
    block_disk.persistent = number(back, "feature-persistent", 0);
    if (block_disk.queues > 1)
        write_number(front, "multi-queue-num-queues", block_disk.queues);
    if (order)
        write_number(front, "ring-page-order", order);
    for (unsigned n = 0; n < block_disk.queues; n++)
        open_queue(n, order);
    snprintf(node, sizeof(node), "%s/protocol", front);
    if (store_write(node, "x86_64-abi"))
        panic("vbd: %s cannot be written", node);
    write_number(front, "feature-persistent", block_disk.persistent);
    write_number(front, "state", XenbusStateInitialised);
    wait_backend(XenbusStateConnected);
    block_disk.sectors = number(back, "sectors", 0);
    block_disk.readonly = number(back, "info", 0) & VDISK_READONLY;
    block_disk.flush = number(back, "feature-flush-cache", 0);
    unsigned indirect = number(back, "feature-max-indirect-segments", 0);
    block_disk.segments = indirect > BLKIF_MAX_SEGMENTS_PER_REQUEST ? least(indirect, ARRAY_SIZE(indirect_pages[0])) : BLKIF_MAX_SEGMENTS_PER_REQUEST;
    for (unsigned n = 0; n < block_disk.queues; n++)
        event_bind(queues[n].port, handle);
    write_number(front, "state", XenbusStateConnected);
    return true;
}

void block_submit(unsigned n, unsigned operation, uint64_t sector, const struct blkif_request_segment *segments, unsigned count, unsigned id)
{
    struct queue *queue = &queues[n];
    void *place = slot(queue, queue->req_prod++);
    if (count > BLKIF_MAX_SEGMENTS_PER_REQUEST) {
        struct blkif_request_indirect *request = place;
        if (!indirect_grefs[id])
            indirect_grefs[id] = grant_page(indirect_pages[id], true);
        memcpy(indirect_pages[id], segments, count * sizeof(*segments));
        *request = (struct blkif_request_indirect){.operation = BLKIF_OP_INDIRECT, .indirect_op = operation, .nr_segments = count, .id = id, .sector_number = sector};
        request->indirect_grefs[0] = indirect_grefs[id];
        return;
    }
    struct blkif_request *request = place;
    *request = (struct blkif_request){.operation = operation, .nr_segments = count, .id = id, .sector_number = sector};
    memcpy(request->seg, segments, count * sizeof(*segments));
}

void block_push(unsigned n)
{
    struct queue *queue = &queues[n];
    uint32_t old = queue->ring->req_prod;
    fence();
    queue->ring->req_prod = queue->req_prod;
    fence();
    if ((uint32_t)(queue->req_prod - queue->ring->req_event) < (uint32_t)(queue->req_prod - old))
        event_send(queue->port);
}
