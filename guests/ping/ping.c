/*
 * Sends UDP datagrams to pong, one at a time, and tells how long each took there and back as a histogram of powers of two.
 *
 * Command line: ip=10.7.0.1 peer=10.7.0.2 count=1000 size=56 rounds=0 (0: for ever) wait=2 (seconds for an answer)
 */
#include "drivers.h"

#define ECHO_PORT 7
#define OUR_PORT 4000
#define BUCKETS 32
#define MAX_SIZE 1400

static volatile uint64_t answered; /* sequence number of the last answer that came */
static uint64_t expected;

static void answer(uint32_t from, uint16_t from_port, uint16_t port, const uint8_t *data, unsigned length)
{
    (void)from;
    if (from_port == ECHO_PORT && port == OUR_PORT && length >= sizeof(uint64_t)) {
        uint64_t sequence;
        memcpy(&sequence, data, sizeof(sequence));
        if (sequence == expected)
            answered = sequence;
    }
}

static bool is_answered(void)
{
    return answered == expected;
}

static void show(const unsigned *buckets, unsigned long count, unsigned long lost, const uint64_t *spent)
{
    unsigned most = 1;
    printf("ping: %lu sent, %lu lost; min %lu, mean %lu, max %lu us\n", count, lost, spent[0] / 1000,
           count > lost ? spent[2] / (count - lost) / 1000 : 0, spent[1] / 1000);
    for (unsigned i = 0; i < BUCKETS; i++)
        if (buckets[i] > most)
            most = buckets[i];
    for (unsigned i = 0; i < BUCKETS; i++) {
        if (!buckets[i])
            continue;
        char bar[41];
        unsigned width = (buckets[i] * 40UL + most - 1) / most;
        memset(bar, '#', width);
        bar[width] = '\0';
        printf("  %8lu us %6u %s\n", 1UL << i, buckets[i], bar);
    }
}

void guest_main(void)
{
    char own[32], other[32];
    static uint8_t data[MAX_SIZE];
    uint32_t address = parse_ip(option("ip", "10.7.0.1", own, sizeof(own)));
    uint32_t peer = parse_ip(option("peer", "10.7.0.2", other, sizeof(other)));
    unsigned long count = option_number("count", "1000", 1000000), size = option_number("size", "56", MAX_SIZE), rounds = option_number("rounds", "0", 1000000);
    uint64_t wait = option_number("wait", "2", 1000000) * NSEC;
    if (!address || !peer)
        panic("ip=%s peer=%s: no addresses", own, other);
    if (size < sizeof(uint64_t))
        size = sizeof(uint64_t);
    if (!net_init())
        panic("no network interface: vif = [ 'bridge=net0' ]");
    ip_init(address, answer);
    printf("ping: %s to %s, %lu datagrams of %lu bytes\n", own, other, count, size);
    expected = 1;
    while (!udp_send(peer, ECHO_PORT, OUR_PORT, &expected, sizeof(expected))) /* until ARP is answered */
        sleep_until(now_ns() + NSEC / 10, NULL);
    sleep_until(now_ns() + 2 * NSEC, is_answered);
    for (unsigned long round = 1; !rounds || round <= rounds; round++) {
        unsigned buckets[BUCKETS] = {0};
        uint64_t spent[3] = {~0UL, 0, 0}; /* least, most, sum */
        unsigned long lost = 0;
        for (unsigned long n = 0; n < count; n++) {
            memcpy(data, (const void *)&(uint64_t){++expected}, sizeof(uint64_t));
            uint64_t began = now_ns();
            udp_send(peer, ECHO_PORT, OUR_PORT, data, size);
            if (!sleep_until(began + wait, is_answered) && !is_answered()) {
                lost++;
                continue;
            }
            uint64_t took = now_ns() - began;
            unsigned bucket = 0;
            while (bucket < BUCKETS - 1 && took >= 2000UL << bucket)
                bucket++;
            buckets[bucket]++;
            spent[0] = took < spent[0] ? took : spent[0];
            spent[1] = took > spent[1] ? took : spent[1];
            spent[2] += took;
        }
        if (lost == count)
            spent[0] = 0;
        show(buckets, count, lost, spent);
        if (!rounds || round < rounds)
            sleep_until(now_ns() + NSEC, NULL);
    }
}
