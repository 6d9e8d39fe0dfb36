/* Greets by both of a guest's voices, tells what domain it finds itself in, then says a line every three seconds. */
#include "runtime.h"

#define PERIOD (3 * NSEC)

static void tell_version(void)
{
    char extra[16] = "", capabilities[1024] = "";
    long version = HYPERVISOR(xen_version, XENVER_version, 0);
    HYPERVISOR(xen_version, XENVER_extraversion, extra);
    HYPERVISOR(xen_version, XENVER_capabilities, capabilities);
    size_t length = strlen(capabilities);
    while (length && capabilities[length - 1] == ' ') /* Xen ends the list with one */
        capabilities[--length] = '\0';
    printf("  Xen            %ld.%ld%.16s (%.80s)\n", version >> 16, version & 0xffff, extra, capabilities);
}

static void tell_clock(void)
{
    const struct vcpu_time_info *time = &shared_info->vcpu_info[0].time;
    if (!time->tsc_to_system_mul)
        return;
    /* 10^9 * 2^32 / mul >> shift, in kHz to stay within 64 bits */
    uint64_t khz = (1000000UL << 32) / time->tsc_to_system_mul;
    khz = time->tsc_shift >= 0 ? khz >> time->tsc_shift : khz << -time->tsc_shift;
    printf("  TSC            %lu.%03lu MHz\n", khz / 1000, khz % 1000);
}

void guest_main(void)
{
    /* console_io ends its lines as a log does, without a carriage return: hence the one before the next words. */
    console_io_printf("hello: greetings by console_io, from a guest of %lu pages\n", (unsigned long)start_info->nr_pages);
    printf("\rHello from a paravirtualized guest.\n\n");
    tell_version();
    printf("  ABI            %.32s\n", start_info->magic);
    unsigned long pages = start_info->nr_pages;
    printf("  memory         %lu MiB, %lu pages\n", pages >> 8, pages);
    printf("  start_info     %p, page tables %#lx (%lu)\n", (void *)start_info, (unsigned long)start_info->pt_base,
           (unsigned long)start_info->nr_pt_frames);
    printf("  shared_info    machine address %#lx\n", (unsigned long)start_info->shared_info);
    printf("  console        machine frame %#lx, event channel %u\n", (unsigned long)start_info->console_mfn,
           start_info->console_evtchn);
    printf("  xenstore       machine frame %#lx, event channel %u\n", (unsigned long)start_info->store_mfn,
           start_info->store_evtchn);
    tell_clock();
    if (start_info->cmd_line[0])
        printf("  command line   %.200s\n", start_info->cmd_line);
    printf("\n");
    uint64_t next = boot_time;
    for (unsigned long n = 1;; n++) {
        next += PERIOD;
        sleep_until(next, NULL);
        uint64_t up = now_ns() - boot_time;
        printf("hello %lu: up %lu.%03lu s\n", n, up / NSEC, up % NSEC / 1000000);
        if (now_ns() > next + PERIOD)
            next = now_ns(); /* paused or restored meanwhile: no burst to catch up */
    }
}
