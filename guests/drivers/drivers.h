/* What guests with devices share beyond the runtime: grants, a network interface, as much of IPv4 as a ping needs, a disk. */
#ifndef DRIVERS_H
#define DRIVERS_H

#include "runtime.h"

/* grants.c: version 1, one frame of 512 entries, all given to Domain-0 */
volatile struct grant_entry_v1 *grants_init(void); /* the table */
uint32_t grant_page(const void *page, bool readonly); /* a page of this image; the grant reference */

/* netfront.c: interface 0 */
#define ETHER_SIZE 14
#define FRAME_MAX 1514
extern uint8_t net_mac[6];
bool net_init(void); /* false: no interface */
/* Runs in the event, for each frame that came. */
void net_bind(void (*receive)(const uint8_t *frame, unsigned length));
bool net_send(const void *frame, unsigned length); /* false: all buffers are on their way */

/* ip.c: one address, ARP, ICMP echo answered, UDP */
extern uint32_t ip_address;
void ip_init(uint32_t address, void (*udp)(uint32_t from, uint16_t from_port, uint16_t port, const uint8_t *data, unsigned length));
bool udp_send(uint32_t to, uint16_t to_port, uint16_t port, const void *data, unsigned length); /* false: try again later */
uint32_t parse_ip(const char *text);                                                        /* 0: it is none */

/* blkfront.c: one disk */
#define BLOCK_QUEUES 4
#define BLOCK_RING_PAGES 8 /* of all queues together */
#define BLOCK_IN_FLIGHT 32
struct block_disk {
    uint64_t sectors;
    unsigned segments; /* most of one request */
    unsigned slots;    /* of each queue's ring */
    unsigned queues;
    bool readonly, flush, persistent;
};
extern struct block_disk block_disk;
/* As many queues and pages (1 << order) of ring as the backend offers; false: no such disk. `done` runs in the event. */
bool block_init(unsigned device, unsigned queues, unsigned order, void (*done)(unsigned id, int status));
/* `id`: below BLOCK_IN_FLIGHT, none in flight has it. The backend sees it with block_push. */
void block_submit(unsigned queue, unsigned operation, uint64_t sector, const struct blkif_request_segment *segments, unsigned count, unsigned id);
void block_push(unsigned queue);

/* option.c: the command line; at most `size` with its NUL */
const char *option(const char *key, const char *otherwise, char *value, size_t size);
unsigned long option_number(const char *key, const char *otherwise, unsigned long most); /* panics when it is none */

#endif
