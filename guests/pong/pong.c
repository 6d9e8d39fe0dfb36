/* Sends every UDP datagram to its port 7 back to where it came from, answers pings, and counts aloud. */
#include "drivers.h"

#define ECHO_PORT 7

static volatile unsigned long echoed, bytes;

static void answer(uint32_t from, uint16_t from_port, uint16_t port, const uint8_t *data, unsigned length)
{
    if (port == ECHO_PORT && udp_send(from, from_port, ECHO_PORT, data, length)) {
        echoed++;
        bytes += length;
    }
}

void guest_main(void)
{
    char text[32];
    uint32_t address = parse_ip(option("ip", "10.7.0.2", text, sizeof(text)));
    if (!address)
        panic("ip=%s is no address", text);
    if (!net_init())
        panic("no network interface: vif = [ 'bridge=net0' ]");
    ip_init(address, answer);
    printf("pong: %s, %02x:%02x:%02x:%02x:%02x:%02x\n", text, net_mac[0], net_mac[1], net_mac[2], net_mac[3], net_mac[4], net_mac[5]);
    unsigned long told = 0;
    for (;;) {
        sleep_until(now_ns() + 3 * NSEC, NULL);
        if (echoed != told) {
            told = echoed;
            printf("pong: %lu datagrams, %lu bytes\n", told, bytes);
        }
    }
}
