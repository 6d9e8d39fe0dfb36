/* From start_info to guest_main: what a PV guest has to do before anything else, in the order that lets it tell of failures. */
#include "runtime.h"

struct start_info *start_info;
uint64_t boot_time;

extern char stack_top[];

void runtime_start(struct start_info *info)
{
    start_info = info;
    traps_init();
    if (HYPERVISOR(stack_switch, FLAT_KERNEL_SS, stack_top))
        panic("stack_switch refused");
    events_init();
    console_init();
    time_init();
    xenstore_init();
    boot_time = now_ns();
    events_unmask();
    guest_main();
    shutdown(SHUTDOWN_poweroff);
}
