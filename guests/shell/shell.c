/* A monitor that a person types into: it sleeps in SCHEDOP_block until a key arrives. */
#include "line.h"

#define PEEK_MAX 4096UL
#define SECONDS_MAX 86400UL

static bool parse_number(const char *text, unsigned long *value)
{
    unsigned base = 10;
    unsigned long total = 0;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        unsigned char c = *text | 0x20;
        unsigned digit = *text >= '0' && *text <= '9' ? (unsigned)(*text - '0') : c >= 'a' && c <= 'f' ? c - 'a' + 10u : 99;
        if (digit >= base || total > (~0UL - digit) / base)
            return false;
        total = total * base + digit;
    }
    *value = total;
    return true;
}

static void help(int argc, char **argv);

static void echo_words(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("%s%s", i > 1 ? " " : "", argv[i]);
    printf("\n");
}

static void tell_time(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t sec, ns;
    wall_clock(&sec, &ns);
    /* Days to a date, in the calendar that begins its years in March (Howard Hinnant's civil_from_days) */
    uint64_t days = sec / 86400 + 719468, era = days / 146097, doe = days % 146097;
    uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    uint64_t day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9, year = yoe + era * 400 + (month <= 2);
    printf("%04lu-%02lu-%02lu %02lu:%02lu:%02lu.%03lu UTC\n", year, month, day, sec / 3600 % 24, sec / 60 % 60, sec % 60,
           ns / 1000000);
}

static void uptime(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t now = now_ns(), up = now - boot_time;
    printf("up %lu.%03lu s (system time %lu.%03lu s)\n", up / NSEC, up % NSEC / 1000000, now / NSEC, now % NSEC / 1000000);
}

static void mem(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint16_t domain = DOMID_SELF;
    unsigned long pages = start_info->nr_pages;
    unsigned long image = (unsigned long)(image_end - image_start) / PAGE_SIZE;
    unsigned long used = ((start_info->pt_base - (unsigned long)image_start) / PAGE_SIZE) + start_info->nr_pt_frames + 1;
    printf("%lu MiB, %lu pages; reservation %ld, maximum %ld\n", pages >> 8, pages,
           HYPERVISOR(memory_op, XENMEM_current_reservation, &domain),
           HYPERVISOR(memory_op, XENMEM_maximum_reservation, &domain));
    printf("%p  image, %lu pages\n", (void *)image_start, image);
    printf("%#lx  phys-to-machine list, %lu pages\n", (unsigned long)start_info->mfn_list,
           (pages * 8 + PAGE_SIZE - 1) / PAGE_SIZE);
    printf("%p  start_info, xenstore, console\n", (void *)start_info);
    printf("%#lx  page tables, %lu pages, and the boot stack\n", (unsigned long)start_info->pt_base,
           (unsigned long)start_info->nr_pt_frames);
    printf("%lu pages free\n", pages > used ? pages - used : 0);
}

static long read_byte(long address)
{
    unsigned char byte;
    __asm__ volatile("movb (%1), %0" : "=q"(byte) : "r"(address));
    return byte;
}

static void peek(int argc, char **argv)
{
    unsigned long address, count = 64;
    if (argc < 2 || argc > 3 || !parse_number(argv[1], &address) || (argc == 3 && !parse_number(argv[2], &count)) || !count ||
        count > PEEK_MAX) {
        printf("usage: peek ADDRESS [BYTES, at most %lu]\n", PEEK_MAX);
        return;
    }
    while (count) {
        char hex[3 * 16 + 1], text[16 + 1];
        unsigned n = count < 16 ? count : 16;
        for (unsigned i = 0; i < n; i++) {
            long byte;
            if (guarded(read_byte, (long)(address + i), &byte)) {
                printf("%016lx  cannot be read: %s, error code %#lx\n", address + i, vector_name(last_trap.vector),
                       last_trap.error);
                return;
            }
            snprintf(hex + 3 * i, 4, " %02x", (unsigned)byte);
            text[i] = byte >= 32 && byte < 127 ? (char)byte : '.';
        }
        text[n] = '\0';
        printf("%016lx %-48s  %s\n", address, hex, text);
        address += n;
        count -= n;
    }
}

static bool parse_seconds(int argc, char **argv, unsigned long *seconds)
{
    if (argc >= 2 && (!parse_number(argv[1], seconds) || *seconds > SECONDS_MAX)) {
        printf("%s: '%s' is no number of seconds up to %lu\n", argv[0], argv[1], SECONDS_MAX);
        return false;
    }
    return true;
}

static void spin(int argc, char **argv)
{
    unsigned long seconds = 5, turns = 0;
    bool masked = argc == 3 && !strcmp(argv[2], "masked");
    if (argc > 3 || (argc == 3 && !masked)) {
        printf("usage: spin [SECONDS [masked]]\n");
        return;
    }
    if (!parse_seconds(argc, argv, &seconds))
        return;
    uint64_t until = now_ns() + seconds * NSEC;
    bool stopped = false;
    if (masked)
        events_mask();
    for (; now_ns() < until; turns++) {
        for (volatile unsigned i = 0; i < 10000; i++)
            ;
        if (!masked && (stopped = console_take_interrupt()))
            break;
    }
    if (masked)
        events_unmask();
    printf("%s%lu turns\n", stopped ? "^C after " : "", turns);
}

static void sleep(int argc, char **argv)
{
    unsigned long seconds = 0;
    if (argc != 2) {
        printf("usage: sleep SECONDS\n");
        return;
    }
    if (parse_seconds(argc, argv, &seconds) && sleep_until(now_ns() + seconds * NSEC, console_take_interrupt))
        printf("^C\n");
}

static long fault_pf(long unused)
{
    (void)unused;
    return read_byte(0x10);
}

static long fault_gp(long unused)
{
    (void)unused;
    return read_byte(1L << 62); /* non-canonical */
}

static long fault_ud(long unused)
{
    __asm__ volatile("ud2");
    return unused;
}

static long fault_de(long unused)
{
    long quotient = 1, rest = 0;
    __asm__ volatile("idivq %2" : "+a"(quotient), "+d"(rest) : "r"(0L));
    return quotient + unused;
}

static long fault_bp(long unused)
{
    __asm__ volatile("int3");
    return unused;
}

static void fault(int argc, char **argv)
{
    static const struct {
        const char *name;
        long (*run)(long);
    } faults[] = {{"pf", fault_pf}, {"gp", fault_gp}, {"ud", fault_ud}, {"de", fault_de}, {"bp", fault_bp}};
    const char *wanted = argc > 1 ? argv[1] : "pf";
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
        if (strcmp(wanted, faults[i].name))
            continue;
        long result;
        if (!guarded(faults[i].run, 0, &result))
            printf("no fault: it returned %#lx\n", result);
        else if (last_trap.vector == 14)
            printf("caught #PF, error code %#lx, address %#lx, at %#lx\n", last_trap.error, last_trap.cr2, last_trap.rip);
        else
            printf("caught %s, error code %#lx, at %#lx\n", vector_name(last_trap.vector), last_trap.error, last_trap.rip);
        return;
    }
    printf("usage: fault [pf|gp|ud|de|bp]\n");
}

static void crash(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "hard")) {
        printf("no trap table, then an undefined instruction: Xen has to end this\n");
        HYPERVISOR(set_trap_table, 0);
    } else if (argc > 1) {
        printf("usage: crash [hard]\n");
        return;
    }
    __asm__ volatile("ud2");
}

static void reboot(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("rebooting\n");
    shutdown(SHUTDOWN_reboot);
}

static void poweroff(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("powering off\n");
    shutdown(SHUTDOWN_poweroff);
}

static const struct command {
    const char *name, *arguments, *what;
    void (*run)(int argc, char **argv);
} commands[] = {
    {"help", "", "this list", help},
    {"echo", "[WORD...]", "say it again", echo_words},
    {"time", "", "the wall clock, UTC", tell_time},
    {"uptime", "", "seconds since this guest began", uptime},
    {"mem", "", "what memory holds", mem},
    {"peek", "ADDRESS [BYTES]", "read memory; an address that cannot be read is told", peek},
    {"spin", "[SECONDS [masked]]", "keep the vCPU busy, deaf to events if masked (^C ends it, unless masked)", spin},
    {"sleep", "SECONDS", "block on a timer (^C ends it)", sleep},
    {"fault", "[pf|gp|ud|de|bp]", "fault, catch it and tell", fault},
    {"crash", "[hard]", "fault and do not catch it; hard: not even a handler", crash},
    {"reboot", "", "SHUTDOWN_reboot", reboot},
    {"poweroff", "", "SHUTDOWN_poweroff", poweroff},
};

static void help(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        const struct command *c = &commands[i];
        char usage[40];
        snprintf(usage, sizeof(usage), "%s %s", c->name, c->arguments);
        printf("  %-26s%s\n", usage, c->what);
    }
}

static void run(char *line)
{
    char *argv[LINE_MAX / 2];
    int argc = 0;
    for (char *at = line; *at;) {
        while (*at == ' ')
            *at++ = '\0';
        if (!*at)
            break;
        argv[argc++] = at;
        while (*at && *at != ' ')
            at++;
    }
    if (!argc)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (!strcmp(argv[0], commands[i].name)) {
            commands[i].run(argc, argv);
            return;
        }
    }
    printf("%s: unknown command; 'help' lists those there are\n", argv[0]);
}

void guest_main(void)
{
    static char line[LINE_MAX];
    printf("xenconsole monitor, %lu MiB. 'help' lists the commands.\n", (unsigned long)start_info->nr_pages >> 8);
    for (;;) {
        read_line("xen> ", line);
        run(line);
    }
}
