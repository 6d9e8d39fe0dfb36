/* What the tables of attempts are made of, and how an outcome is judged. */
#ifndef ROGUE_H
#define ROGUE_H

#include "runtime.h"

/* What Xen 4.17 does with an instruction: the vector of the exception it gives, or one of these. */
#define MAY 0x100      /* carried out or ignored on the guest's own state alone */
#define EITHER 0x102   /* that or an exception, as the processor has it */
#define ANY_TRAP 0x101 /* some exception; which one depends on the processor */

/* What it answers to a hypercall: the errno, or one of these. */
#define ANY_ERROR 0x200
#define NOTHING_DONE 0x201 /* 0: the count of what was done */

struct attempt {
    const char *name;
    long (*run)(long argument);
    long argument;
    int expect;
    /* For MAY and EITHER: whether what it returned is harmless. NULL: whatever it returned is. */
    bool (*harmless)(long result);
};

struct table {
    const char *title;
    const struct attempt *attempts;
    size_t count;
    bool hypercalls;
    void (*before)(void), (*after)(void); /* either may be NULL */
};

/* Each ends with a NULL title. */
extern const struct table instruction_tables[], memory_tables[], hypercall_tables[], mm_tables[], made_tables[];

#define TABLE(title, attempts, before, after) \
    {title, attempts, ARRAY_SIZE(attempts), false, before, after}

/* A page of our own to hurt, mapped writable and used for nothing else. */
extern char victim[PAGE_SIZE];

#define WILD_MFN 0x12345678UL
#define NON_CANONICAL 0x0000900000000000UL
#define XEN_MEMORY 0xffff830000000000UL /* Xen's direct map */
#define NO_DOMAIN 12345

#endif
