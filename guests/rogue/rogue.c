/*
 * Tries everything that a guest must not be able to do, tells what stopped each attempt, and counts. An attempt is stopped
 * when it gave an exception or an error, or had no effect beyond the guest's own; it escaped when it was carried out. Where the
 * answer is not the one that Xen 4.17 gives, Xen's is told behind it.
 */
#include "rogue.h"

char victim[PAGE_SIZE] __attribute__((aligned(4096)));

static unsigned attempts, stopped, escaped, unlike;

/* An operation's own status is no errno: its number is told. */
static const char *errno_name(const struct attempt *a, long error)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {
        {XEN_EPERM, "EPERM"},   {XEN_ENOENT, "ENOENT"}, {XEN_ESRCH, "ESRCH"}, {XEN_ENXIO, "ENXIO"},
        {XEN_E2BIG, "E2BIG"},   {XEN_EBADF, "EBADF"},   {XEN_ENOMEM, "ENOMEM"}, {XEN_EACCES, "EACCES"},
        {XEN_EFAULT, "EFAULT"}, {XEN_EBUSY, "EBUSY"},   {XEN_EEXIST, "EEXIST"}, {XEN_EXDEV, "EXDEV"},
        {XEN_ENODEV, "ENODEV"}, {XEN_EINVAL, "EINVAL"}, {XEN_ENOSPC, "ENOSPC"}, {XEN_ENOSYS, "ENOSYS"},
        {62, "ETIME"},          {75, "EOVERFLOW"},      {XEN_EOPNOTSUPP, "EOPNOTSUPP"},
    };
    static char number[2][16], *next;
    next = next == number[0] ? number[1] : number[0];
    size_t length = strlen(a->name);
    if (length > 8 && !strcmp(a->name + length - 8, "(status)")) {
        snprintf(next, sizeof(number[0]), "%ld", error);
        return next;
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].number == error)
            return names[i].name;
    snprintf(next, sizeof(number[0]), "errno %ld", error);
    return next;
}

/* What no attempt may have changed: ring 3, events unmasked. */
static const char *changed_state(void)
{
    uint16_t cs;
    __asm__ volatile("movw %%cs, %0" : "=r"(cs));
    if ((cs & 3) != 3)
        return "runs in a lower ring";
    if (shared_info->vcpu_info[0].evtchn_upcall_mask)
        return "events are masked";
    return NULL;
}

static void tell_trap(char *text, size_t size, const struct attempt *a)
{
    int n;
    if (last_trap.vector == 14)
        n = snprintf(text, size, "stopped by #PF(%#lx) at %#lx", last_trap.error, last_trap.cr2);
    else if (vector_has_error(last_trap.vector))
        n = snprintf(text, size, "stopped by %s(%#lx)", vector_name(last_trap.vector), last_trap.error);
    else
        n = snprintf(text, size, "stopped by %s", vector_name(last_trap.vector));
    if (a->expect == ANY_TRAP || a->expect == EITHER || a->expect == (int)last_trap.vector)
        return;
    unlike++;
    if (a->expect < 32)
        snprintf(text + n, size - n, " (Xen: %s)", vector_name(a->expect));
    else
        snprintf(text + n, size - n, " (Xen: %s)", a->expect == MAY ? "not stopped" : "an error");
}

/* Says whether the attempt was stopped. */
static bool judge_call(char *text, size_t size, const struct attempt *a, long result)
{
    bool nothing = a->expect == NOTHING_DONE && result == 0;
    bool error = result < 0 && result >= -4095;
    int n = error ? snprintf(text, size, "refused: -%s", errno_name(a, -result)) : snprintf(text, size, "returned %#lx", result);
    if (nothing)
        snprintf(text + n, size - n, ": nothing done");
    else if (error && a->expect == NOTHING_DONE)
        unlike++, snprintf(text + n, size - n, " (Xen: 0, nothing done)");
    else if (error && a->expect != ANY_ERROR && a->expect != -result)
        unlike++, snprintf(text + n, size - n, " (Xen: -%s)", errno_name(a, a->expect));
    return nothing || error;
}

static void try(const struct attempt *a, bool is_call)
{
    char text[128];
    long result = 0;
    bool held = true;
    attempts++;
    if (guarded(a->run, a->argument, &result)) {
        tell_trap(text, sizeof(text), a);
    } else if (is_call) {
        held = judge_call(text, sizeof(text), a, result);
    } else {
        held = (a->expect == MAY || a->expect == EITHER) && (!a->harmless || a->harmless(result));
        snprintf(text, sizeof(text), held ? "harmless, returned %#lx" : "returned %#lx", result);
    }
    const char *changed = changed_state();
    if (changed) {
        held = false;
        events_unmask();
    }
    held ? stopped++ : escaped++;
    printf("  %-40s %s%s%s%s\n", a->name, held ? "" : "ESCAPED: ", text, changed ? ", and " : "", changed ? changed : "");
}

static void run(const struct table *table)
{
    for (; table->title; table++) {
        printf("\n%s\n", table->title);
        if (table->before)
            table->before();
        for (size_t i = 0; i < table->count; i++)
            try(&table->attempts[i], table->hypercalls);
        if (table->after)
            table->after();
    }
}

void guest_main(void)
{
    printf("rogue: everything that a guest must not do\n");
    run(instruction_tables);
    run(memory_tables);
    run(hypercall_tables);
    run(mm_tables);
    run(made_tables);
    if (unlike)
        printf("\nrogue: %u answered otherwise than Xen 4.17\n", unlike);
    printf("\nrogue: %u attempts, %u stopped, %u escaped\n", attempts, stopped, escaped);
}
