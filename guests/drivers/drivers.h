/* What guests with devices share beyond the runtime: grants, a network interface, and as much of IPv4 as a ping needs. */
#ifndef DRIVERS_H
#define DRIVERS_H

#include "runtime.h"

/* grants.c: version 1, one frame of 512 entries, all given to Domain-0 */
void grants_init(void);
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
/* The value of `key=` on the command line, or the default; at most `size` with its NUL. */
const char *option(const char *key, const char *otherwise, char *value, size_t size);

#endif
