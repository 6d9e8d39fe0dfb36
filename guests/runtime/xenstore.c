/*
 * Xenstore. Every guest wants to be told to shut down: a watch on control/shutdown, all of it run by the store's event, so that
 * a guest that never blocks hears it as well. Guests with devices also read and write nodes, one request at a time, and wait for
 * the answer. A guest without a xenstore page does without.
 */
#include "runtime.h"

#define TOKEN "shutdown"
static const char path[] = "control/shutdown";

static volatile struct xenstore_domain_interface *ring;

/* The message that is being received: its header, then as much of its payload as could interest us. */
static struct xsd_sockmsg header;
static char payload[256];
static uint32_t received;

static volatile uint32_t asked; /* the request that somebody waits for; 0: nobody */
static uint32_t last_asked;
static uint32_t answer_type, answer_length;
static char answer[sizeof(payload)];

static void request(uint32_t type, uint32_t id, const char *body, uint32_t length)
{
    struct xsd_sockmsg message = {type, id, 0, length};
    uint32_t prod = ring->req_prod;
    if (sizeof(ring->req) - (prod - ring->req_cons) < sizeof(message) + length)
        return; /* never with one request on the way; a ring gone wrong is not worth a panic */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < sizeof(message); i++)
        ring->req[prod++ & (sizeof(ring->req) - 1)] = ((const char *)&message)[i];
    for (uint32_t i = 0; i < length; i++)
        ring->req[prod++ & (sizeof(ring->req) - 1)] = body[i];
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    ring->req_prod = prod;
    event_send(start_info->store_evtchn);
}

static void handle_message(void)
{
    if (asked && header.req_id == asked) {
        answer_type = header.type;
        answer_length = header.len;
        memcpy(answer, payload, sizeof(answer));
        asked = 0;
    } else if (header.type == XS_WATCH_EVENT) {
        request(XS_READ, 0, path, sizeof(path));
    } else if (header.type == XS_READ) {
        payload[header.len < sizeof(payload) ? header.len : sizeof(payload) - 1] = '\0';
        if (!strcmp(payload, "poweroff") || !strcmp(payload, "halt"))
            shutdown(SHUTDOWN_poweroff);
        if (!strcmp(payload, "reboot"))
            shutdown(SHUTDOWN_reboot);
    }
}

static void receive(unsigned port)
{
    uint32_t cons = ring->rsp_cons;
    (void)port;
    while (cons != ring->rsp_prod) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        char byte = ring->rsp[cons++ & (sizeof(ring->rsp) - 1)];
        if (received < sizeof(header))
            ((char *)&header)[received] = byte;
        else if (received - sizeof(header) < sizeof(payload))
            payload[received - sizeof(header)] = byte;
        received++;
        if (received < sizeof(header) || received < sizeof(header) + header.len)
            continue;
        received = 0;
        ring->rsp_cons = cons;
        handle_message();
    }
    ring->rsp_cons = cons;
    event_send(start_info->store_evtchn);
}

void xenstore_init(void)
{
    static const char watch[] = "control/shutdown\0" TOKEN;
    unsigned long pfn = mfn_to_pfn(start_info->store_mfn);
    if (pfn == ~0UL)
        return;
    ring = pfn_to_virt(pfn);
    event_bind(start_info->store_evtchn, receive);
    request(XS_WATCH, 0, watch, sizeof(watch));
}

static void ask(uint32_t type, const char *body, uint32_t length)
{
    events_mask();
    asked = ++last_asked;
    request(type, asked, body, length);
    while (asked) {
        block();
        events_mask();
    }
    events_unmask();
}

int store_read(const char *node, char *value, size_t size)
{
    if (!ring)
        return -1;
    ask(XS_READ, node, strlen(node) + 1);
    if (answer_type != XS_READ)
        return -1;
    size_t length = answer_length < sizeof(answer) ? answer_length : sizeof(answer);
    if (length >= size)
        length = size - 1;
    memcpy(value, answer, length);
    value[length] = '\0';
    return length;
}

int store_write(const char *node, const char *value)
{
    char body[256];
    size_t first = strlen(node) + 1, second = strlen(value);
    if (!ring || first + second > sizeof(body))
        return -1;
    memcpy(body, node, first);
    memcpy(body + first, value, second);
    ask(XS_WRITE, body, first + second);
    return answer_type == XS_WRITE ? 0 : -1;
}
