/*
 * The runtime that our guests share: everything between Xen's ABI and a `void guest_main(void)`.
 *
 * One vCPU, one address space, no user mode, no heap. guest_main runs with events unmasked; returning from it powers off.
 */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdarg.h>

#include "xen.h"

#define PAGE_SIZE 4096UL
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define NSEC 1000000000UL

void guest_main(void);

/* setup.c */
extern struct start_info *start_info;
extern uint64_t boot_time; /* Xen's system time when this guest began, ns */
void runtime_start(struct start_info *info);

/* start.S */
long hypercall(unsigned long nr, unsigned long a1, unsigned long a2, unsigned long a3, unsigned long a4, unsigned long a5);
long hypercall_syscall(unsigned long nr, unsigned long a1, unsigned long a2, unsigned long a3, unsigned long a4,
                       unsigned long a5);
bool guarded(long (*fn)(long), long arg, long *result);

#define HYPERCALL_PICK(_0, _1, _2, _3, _4, _5, pick, ...) pick
#define HC0(n) hypercall(n, 0, 0, 0, 0, 0)
#define HC1(n, a) hypercall(n, (unsigned long)(a), 0, 0, 0, 0)
#define HC2(n, a, b) hypercall(n, (unsigned long)(a), (unsigned long)(b), 0, 0, 0)
#define HC3(n, a, b, c) hypercall(n, (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), 0, 0)
#define HC4(n, a, b, c, d) hypercall(n, (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), (unsigned long)(d), 0)
#define HC5(n, a, b, c, d, e) \
    hypercall(n, (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), (unsigned long)(d), (unsigned long)(e))
/* HYPERVISOR(sched_op, SCHEDOP_yield, 0): a hypercall by name with up to five arguments */
#define HYPERVISOR(name, ...) \
    HYPERCALL_PICK(0, ##__VA_ARGS__, HC5, HC4, HC3, HC2, HC1, HC0, 0)(__HYPERVISOR_##name, ##__VA_ARGS__)

/* traps.c: pseudo vectors follow the 20 of the processor */
#define VECTOR_EVENT 0x100
#define VECTOR_SYSCALL 0x101
#define VECTOR_FAILSAFE 0x102

struct frame {
    uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

struct trap_record {
    uint64_t vector, error, rip, cr2;
};

extern struct trap_record last_trap;
void traps_init(void);
const char *vector_name(unsigned vector);
bool vector_has_error(unsigned vector);
__attribute__((noreturn, format(printf, 1, 2))) void panic(const char *format, ...);

/* events.c */
extern struct shared_info *shared_info;
void events_init(void);
void events_upcall(void);
void event_bind(unsigned port, void (*handler)(unsigned port));
void event_clear(unsigned port);
void event_send(unsigned port);
void events_mask(void);
void events_unmask(void);
/* With events masked: sleeps until one is pending, delivers it; returns with events unmasked. */
void block(void);
__attribute__((noreturn)) void shutdown(unsigned reason);

/* time.c */
void time_init(void);
uint64_t now_ns(void); /* Xen's system time */
void wall_clock(uint64_t *sec, uint64_t *ns);
void timer_set(uint64_t deadline_ns);
/* Sleeps until the deadline or until `interrupted` (may be NULL) says true; returns whether it was interrupted. */
bool sleep_until(uint64_t deadline_ns, bool (*interrupted)(void));

/* console.c */
void console_init(void);
bool console_ready(void);
void console_write(const char *text, size_t length); /* waits while the ring is full */
int console_read(void);                              /* next byte or -1 */
bool console_input(void);
bool console_take_interrupt(void); /* eats input up to a ^C; false when there is none */
void hypervisor_write(const char *text, size_t length);

/* xenstore.c */
void xenstore_init(void); /* from here on control/shutdown is obeyed */
/* Wait for the answer; relative paths start at the domain's own directory. The value's length, NUL put behind it, or -1. */
int store_read(const char *path, char *value, size_t size);
int store_write(const char *path, const char *value); /* 0 or -1 */

/* memory.c */
unsigned long mfn_to_pfn(unsigned long mfn); /* ~0UL when it is none of ours */
unsigned long pfn_to_mfn(unsigned long pfn);
void *pfn_to_virt(unsigned long pfn);
unsigned long virt_to_mfn(const void *address);
unsigned long virt_to_maddr(const void *address);
extern char image_start[], image_end[];

#define PTE_PRESENT 0x001UL
#define PTE_WRITE 0x002UL
#define PTE_USER 0x004UL
#define PTE_PCD 0x010UL
#define PTE_ACCESSED 0x020UL
#define PTE_DIRTY 0x040UL
#define PTE_PSE 0x080UL
#define PTE_NX (1UL << 63)
#define PTE_FRAME 0x000ffffffffff000UL
/* The entry that maps `address` at `level` (1 = L1) in the bootstrap tables, readable only; NULL when a level is missing. */
const uint64_t *page_entry(unsigned long address, int level);
long map_frame(void *address, uint64_t entry); /* update_va_mapping, flushing */

/* print.c */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2))); /* to the console ring, \n as CR LF */
void console_io_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
int vsnprintf(char *buffer, size_t size, const char *format, va_list args);
int snprintf(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* string.c */
void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);

#define barrier() __asm__ volatile("" ::: "memory")

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

#endif
