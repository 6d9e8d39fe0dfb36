/*
 * A network frontend (public/io/netif.h) of the plainest kind: one interface, one event channel, frames of one slot. It asks for
 * no offload, so that every frame comes with its checksums and in wire size.
 */
#include "drivers.h"

#define TX_BUFFERS 64
#define RX_BUFFERS 128

struct tx_ring {
    struct ring_head head;
    union {
        struct netif_tx_request request;
        struct netif_tx_response response;
    } slot[NETIF_SLOTS];
};
struct rx_ring {
    struct ring_head head;
    union {
        struct netif_rx_request request;
        struct netif_rx_response response;
    } slot[NETIF_SLOTS];
};

uint8_t net_mac[6];

static char tx_page[PAGE_SIZE] __attribute__((aligned(4096)));
static char rx_page[PAGE_SIZE] __attribute__((aligned(4096)));
static uint8_t tx_buffer[TX_BUFFERS][PAGE_SIZE] __attribute__((aligned(4096)));
static uint8_t rx_buffer[RX_BUFFERS][PAGE_SIZE] __attribute__((aligned(4096)));
static uint32_t tx_gref[TX_BUFFERS], rx_gref[RX_BUFFERS];
static uint16_t tx_free[TX_BUFFERS];
static unsigned tx_free_count;
static uint32_t tx_rsp_cons, rx_rsp_cons;
static uint32_t port;
static bool connected;
static void (*receiver)(const uint8_t *frame, unsigned length);

#define tx ((volatile struct tx_ring *)tx_page)
#define rx ((volatile struct rx_ring *)rx_page)
#define fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static void give_buffer(unsigned id)
{
    uint32_t prod = rx->head.req_prod;
    volatile struct netif_rx_request *request = &rx->slot[prod % NETIF_SLOTS].request;
    request->id = id;
    request->gref = rx_gref[id];
    fence();
    rx->head.req_prod = prod + 1;
}

/* RING_PUSH_REQUESTS_AND_CHECK_NOTIFY, the requests being pushed already */
static bool must_notify(volatile struct ring_head *head, uint32_t old)
{
    fence();
    return (uint32_t)(head->req_prod - head->req_event) < (uint32_t)(head->req_prod - old);
}

static void reap(void)
{
    do {
        while (tx_rsp_cons != tx->head.rsp_prod) {
            fence();
            tx_free[tx_free_count++] = tx->slot[tx_rsp_cons++ % NETIF_SLOTS].response.id;
        }
        tx->head.rsp_event = tx_rsp_cons + TX_BUFFERS / 2; /* answers alone are no reason for an event */
        fence();
    } while (tx_rsp_cons != tx->head.rsp_prod);
}

static void handle(unsigned which)
{
    (void)which;
    uint32_t old = rx->head.req_prod;
    do {
        while (rx_rsp_cons != rx->head.rsp_prod) {
            fence();
            volatile struct netif_rx_response *response = &rx->slot[rx_rsp_cons++ % NETIF_SLOTS].response;
            unsigned id = response->id, offset = response->offset;
            int size = response->status;
            if (id >= RX_BUFFERS)
                panic("vif: a frame in buffer %u", id);
            if (size > 0 && offset + size <= PAGE_SIZE && !(response->flags & (NETRXF_more_data | NETRXF_extra_info)) && receiver)
                receiver(rx_buffer[id] + offset, size);
            give_buffer(id);
        }
        rx->head.rsp_event = rx_rsp_cons + 1;
        fence();
    } while (rx_rsp_cons != rx->head.rsp_prod);
    reap();
    if (must_notify(&rx->head, old))
        event_send(port);
}

static void write_number(const char *key, unsigned long value)
{
    char node[64], text[24];
    snprintf(node, sizeof(node), "device/vif/0/%s", key);
    snprintf(text, sizeof(text), "%lu", value);
    if (store_write(node, text))
        panic("vif: %s cannot be written", node);
}

static unsigned hex(char c)
{
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

static void wait_backend(unsigned state)
{
    char backend[128], node[160], value[16];
    if (store_read("device/vif/0/backend", backend, sizeof(backend)) < 0)
        panic("vif: no backend");
    snprintf(node, sizeof(node), "%s/state", backend);
    for (unsigned tries = 0; tries < 2000; tries++) {
        if (store_read(node, value, sizeof(value)) > 0 && value[0] == (char)('0' + state))
            return;
        sleep_until(now_ns() + 5000000, NULL);
    }
    panic("vif: the backend stays in state %s", value);
}

bool net_init(void)
{
    char text[32];
    if (store_read("device/vif/0/mac", text, sizeof(text)) != 17)
        return false;
    for (unsigned i = 0; i < 6; i++)
        net_mac[i] = hex(text[3 * i]) << 4 | hex(text[3 * i + 1]);
    wait_backend(XenbusStateInitWait);
    uint32_t tx_ref = grant_page(tx_page, false), rx_ref = grant_page(rx_page, false);
    tx->head.req_event = tx->head.rsp_event = rx->head.req_event = rx->head.rsp_event = 1;
    for (unsigned i = 0; i < TX_BUFFERS; i++) {
        tx_gref[i] = grant_page(tx_buffer[i], true);
        tx_free[tx_free_count++] = i;
    }
    for (unsigned i = 0; i < RX_BUFFERS; i++) {
        rx_gref[i] = grant_page(rx_buffer[i], false);
        give_buffer(i);
    }
    struct evtchn_alloc_unbound allocate = {DOMID_SELF, 0, 0};
    long error = HYPERVISOR(event_channel_op, EVTCHNOP_alloc_unbound, &allocate);
    if (error)
        panic("vif: alloc_unbound returned %ld", error);
    port = allocate.port;
    write_number("tx-ring-ref", tx_ref);
    write_number("rx-ring-ref", rx_ref);
    write_number("event-channel", port);
    write_number("request-rx-copy", 1);
    write_number("feature-rx-notify", 1);
    write_number("feature-no-csum-offload", 1);
    write_number("feature-sg", 0);
    write_number("feature-gso-tcpv4", 0);
    write_number("state", XenbusStateConnected);
    wait_backend(XenbusStateConnected);
    connected = true;
    event_bind(port, handle);
    event_send(port);
    return true;
}

void net_bind(void (*receive)(const uint8_t *frame, unsigned length))
{
    receiver = receive;
}

bool net_send(const void *frame, unsigned length)
{
    if (!connected || length > PAGE_SIZE)
        return false;
    if (!tx_free_count)
        reap();
    if (!tx_free_count)
        return false;
    uint16_t id = tx_free[--tx_free_count];
    memcpy(tx_buffer[id], frame, length);
    uint32_t prod = tx->head.req_prod;
    tx->slot[prod % NETIF_SLOTS].request = (struct netif_tx_request){tx_gref[id], 0, 0, id, length};
    fence();
    tx->head.req_prod = prod + 1;
    if (must_notify(&tx->head, prod))
        event_send(port);
    return true;
}
