/* Traps: the table given to Xen, the guard that survives them, and a panic that says all when there is none. */
#include "runtime.h"

#define VECTORS 20
#define ENTRY_SIZE 16

extern char trap_entries[], event_entry[], failsafe_entry[], syscall_entry[];
extern char guard_landing[];

uint64_t guard_rsp;
volatile uint8_t guard_armed;
struct trap_record last_trap;

static const char *const names[VECTORS] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9",
    "#TS", "#NP", "#SS", "#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM",
};

const char *vector_name(unsigned vector)
{
    if (vector < VECTORS)
        return names[vector];
    return vector == VECTOR_SYSCALL ? "syscall callback" : vector == VECTOR_FAILSAFE ? "failsafe callback" : "unknown vector";
}

bool vector_has_error(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void register_callback(uint16_t type, const char *entry)
{
    struct callback_register callback = {type, CALLBACKF_mask_events, (uint64_t)entry};
    if (HYPERVISOR(callback_op, CALLBACKOP_register, &callback))
        panic("callback_op: callback %u refused", type);
}

void traps_init(void)
{
    static struct trap_info table[VECTORS + 1]; /* a zero address ends it */
    for (unsigned vector = 0; vector < VECTORS; vector++) {
        uint8_t level = vector == 3 || vector == 4 ? 3 : 0; /* int3 and into are anyone's */
        table[vector] = (struct trap_info){vector, level | 4, FLAT_KERNEL_CS, (uint64_t)trap_entries + ENTRY_SIZE * vector};
    }
    if (HYPERVISOR(set_trap_table, table))
        panic("set_trap_table refused");
    register_callback(CALLBACKTYPE_event, event_entry);
    register_callback(CALLBACKTYPE_failsafe, failsafe_entry);
    register_callback(CALLBACKTYPE_syscall, syscall_entry);
}

void trap_dispatch(struct frame *frame);

void trap_dispatch(struct frame *frame)
{
    if (frame->vector == VECTOR_EVENT) {
        events_upcall();
        return;
    }
    last_trap.vector = frame->vector;
    last_trap.error = frame->error;
    last_trap.rip = frame->rip;
    last_trap.cr2 = shared_info ? shared_info->vcpu_info[0].cr2 : 0;
    if (!guard_armed) {
        const struct frame *f = frame;
        panic("%s, error code %#lx, address %#lx\n"
              "rip %016lx  cs %04lx      rflags %08lx\nrsp %016lx  ss %04lx\n"
              "rax %016lx  rbx %016lx  rcx %016lx\nrdx %016lx  rsi %016lx  rdi %016lx\n"
              "rbp %016lx  r8  %016lx  r9  %016lx\nr10 %016lx  r11 %016lx  r12 %016lx\n"
              "r13 %016lx  r14 %016lx  r15 %016lx",
              vector_name(f->vector), f->error, last_trap.cr2, f->rip, f->cs & 0xffff, f->rflags, f->rsp, f->ss, f->rax, f->rbx,
              f->rcx, f->rdx, f->rsi, f->rdi, f->rbp, f->r8, f->r9, f->r10, f->r11, f->r12, f->r13, f->r14, f->r15);
    }
    guard_armed = 0;
    frame->rip = (uint64_t)guard_landing;
    frame->cs = FLAT_KERNEL_CS & ~3UL;
    frame->rflags = 0x202;
    frame->rsp = guard_rsp;
    frame->ss = FLAT_KERNEL_SS;
}

void panic(const char *format, ...)
{
    static char text[1024];
    static bool panicking;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!panicking) {
        panicking = true;
        int line = 0; /* the log gets the first line alone */
        while (text[line] && text[line] != '\n')
            line++;
        console_io_printf("panic: %.*s\n", line, text);
        printf("\npanic: %s\n", text);
    }
    shutdown(SHUTDOWN_crash);
}
