/* Counts as fast as it can and tells its rate once a second, never idle: what a scheduler has to be fair to. */
#include "runtime.h"

#define BATCH 100000UL

/* Four instructions a step, each waiting for the one before it; a result that is printed cannot be optimized away. */
static uint64_t count(uint64_t state, unsigned long steps)
{
    for (; steps; steps--)
        state = state * 6364136223846793005UL + 1442695040888963407UL;
    return state;
}

void guest_main(void)
{
    printf("counter: one line a second, the rate of a loop of dependent multiplications\n");
    uint64_t state = 1, total = 0;
    uint64_t began = now_ns(), last = began, at_last = 0;
    for (;;) {
        state = count(state, BATCH);
        total += BATCH;
        uint64_t now = now_ns();
        if (now - last < NSEC)
            continue;
        uint64_t rate = (total - at_last) * 1000 / ((now - last) / 1000); /* thousands a second */
        printf("counter: %lu.%03lu M steps/s, %lu M in %lu s, state %016lx\n", rate / 1000, rate % 1000, total / 1000000,
               (now - began) / NSEC, state);
        last = now;
        at_last = total;
    }
}
