/*
 * The one thing our guests want of xenstore: to be told to shut down. A watch on control/shutdown, all of it run by the store's
 * event, so that a guest that never blocks hears it as well. A guest without a xenstore page does without.
 */
#include "runtime.h"

#define TOKEN "shutdown"
static const char path[] = "control/shutdown";

static volatile struct xenstore_domain_interface *ring;

/* The message that is being received: its header, then as much of its payload as could interest us. */
static struct xsd_sockmsg header;
static char payload[64];
static uint32_t received;

static void request(uint32_t type, const char *body, uint32_t length)
{
    struct xsd_sockmsg message = {type, 0, 0, length};
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
    if (header.type == XS_WATCH_EVENT) {
        request(XS_READ, path, sizeof(path));
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
    request(XS_WATCH, watch, sizeof(watch));
}
