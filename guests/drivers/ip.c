/* As much of ARP (RFC 826), IPv4, ICMP echo and UDP as two guests need to find and answer each other. */
#include "drivers.h"

#define NEIGHBOURS 16

uint32_t ip_address;

static struct {
    uint32_t ip;
    uint8_t mac[6];
} neighbours[NEIGHBOURS];
static unsigned next_neighbour;
static void (*udp_receiver)(uint32_t from, uint16_t from_port, uint16_t port, const uint8_t *data, unsigned length);
static uint16_t ident;

static uint16_t get16(const uint8_t *at)
{
    return at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = value >> 8;
    at[1] = value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value);
}

static uint32_t sum(const uint8_t *data, unsigned length, uint32_t start)
{
    for (; length > 1; length -= 2, data += 2)
        start += get16(data);
    return length ? start + (data[0] << 8) : start;
}

static uint16_t fold(uint32_t value)
{
    while (value >> 16)
        value = (value & 0xffff) + (value >> 16);
    return ~value;
}

static const uint8_t *find(uint32_t ip)
{
    for (unsigned i = 0; i < NEIGHBOURS; i++)
        if (neighbours[i].ip == ip)
            return neighbours[i].mac;
    return NULL;
}

static void learn(uint32_t ip, const uint8_t *mac)
{
    uint8_t *known = (uint8_t *)find(ip);
    if (!known) {
        unsigned slot = next_neighbour++ % NEIGHBOURS;
        neighbours[slot].ip = ip;
        known = neighbours[slot].mac;
    }
    memcpy(known, mac, 6);
}

static void send_arp(uint16_t operation, uint32_t ip, const uint8_t *mac)
{
    static const uint8_t fixed[] = {8, 6, 0, 1, 8, 0, 6, 4};
    uint8_t frame[60] = {0};
    memset(frame, 0xff, 6);
    if (mac)
        memcpy(frame, mac, 6);
    memcpy(frame + 6, net_mac, 6);
    memcpy(frame + 12, fixed, sizeof(fixed));
    put16(frame + 20, operation);
    memcpy(frame + 22, net_mac, 6);
    put32(frame + 28, ip_address);
    if (mac)
        memcpy(frame + 32, mac, 6);
    put32(frame + 38, ip);
    net_send(frame, sizeof(frame));
}

/* Fills Ethernet and IP headers before the `length` bytes that lie at frame + 34, and sends. */
static bool send_ip(uint8_t *frame, const uint8_t *mac, uint32_t to, uint8_t protocol, unsigned length)
{
    uint8_t *ip = frame + ETHER_SIZE;
    memcpy(frame, mac, 6);
    memcpy(frame + 6, net_mac, 6);
    put16(frame + 12, 0x0800);
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, 20 + length);
    put16(ip + 4, ident++);
    ip[8] = 64;
    ip[9] = protocol;
    put32(ip + 12, ip_address);
    put32(ip + 16, to);
    put16(ip + 10, fold(sum(ip, 20, 0)));
    return net_send(frame, ETHER_SIZE + 20 + length);
}

static void receive_ip(const uint8_t *frame, unsigned length)
{
    const uint8_t *ip = frame + ETHER_SIZE;
    unsigned header = (ip[0] & 15) * 4, total = get16(ip + 2);
    if (ip[0] >> 4 != 4 || header < 20 || total < header + 8 || ETHER_SIZE + total > length || get16(ip + 6) & 0x3fff)
        return;
    if (get32(ip + 16) != ip_address || fold(sum(ip, header, 0)))
        return;
    const uint8_t *body = ip + header;
    unsigned size = total - header;
    uint32_t from = get32(ip + 12);
    if (ip[9] == 1 && body[0] == 8 && size <= FRAME_MAX - 34) { /* echo request */
        uint8_t reply[FRAME_MAX];
        memcpy(reply + 34, body, size);
        reply[34] = 0;
        put16(reply + 36, 0);
        put16(reply + 36, fold(sum(reply + 34, size, 0)));
        send_ip(reply, frame + 6, from, 1, size);
    } else if (ip[9] == 17 && get16(body + 4) >= 8 && get16(body + 4) <= size && udp_receiver) {
        unsigned udp = get16(body + 4);
        if (get16(body + 6) && fold(sum(body, udp, sum(ip + 12, 8, 17 + udp))))
            return;
        udp_receiver(from, get16(body), get16(body + 2), body + 8, udp - 8);
    }
}

static void receive(const uint8_t *frame, unsigned length)
{
    if (length < ETHER_SIZE + 20)
        return;
    if (get16(frame + 12) == 0x0800) {
        learn(get32(frame + 26), frame + 6);
        receive_ip(frame, length);
    } else if (get16(frame + 12) == 0x0806 && length >= 42 && get32(frame + 38) == ip_address) {
        learn(get32(frame + 28), frame + 22);
        if (get16(frame + 20) == 1)
            send_arp(2, get32(frame + 28), frame + 22);
    }
}

void ip_init(uint32_t address, void (*udp)(uint32_t from, uint16_t from_port, uint16_t port, const uint8_t *data, unsigned length))
{
    ip_address = address;
    udp_receiver = udp;
    net_bind(receive);
}

bool udp_send(uint32_t to, uint16_t to_port, uint16_t port, const void *data, unsigned length)
{
    uint8_t frame[FRAME_MAX], pseudo[8];
    const uint8_t *mac = find(to);
    if (!mac) {
        send_arp(1, to, NULL);
        return false;
    }
    if (length > FRAME_MAX - 42)
        return false;
    uint8_t *udp = frame + 34;
    put16(udp, port);
    put16(udp + 2, to_port);
    put16(udp + 4, 8 + length);
    put16(udp + 6, 0);
    memcpy(udp + 8, data, length);
    put32(pseudo, ip_address);
    put32(pseudo + 4, to);
    uint16_t check = fold(sum(udp, 8 + length, sum(pseudo, 8, 17 + 8 + length)));
    put16(udp + 6, check ? check : 0xffff);
    return send_ip(frame, mac, to, 17, 8 + length);
}

uint32_t parse_ip(const char *text)
{
    uint32_t address = 0;
    for (unsigned part = 0; part < 4; part++) {
        unsigned value = 0, digits = 0;
        for (; *text >= '0' && *text <= '9' && digits < 3; text++, digits++)
            value = value * 10 + (*text - '0');
        if (!digits || value > 255 || *text != (part < 3 ? '.' : '\0'))
            return 0;
        text++;
        address = address << 8 | value;
    }
    return address;
}
