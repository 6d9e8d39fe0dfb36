/* Hypercalls as rows: X(identifier, name in the table, errno of Xen 4.17, expression). */
#ifndef CALLS_H
#define CALLS_H

#include "rogue.h"

#define UNMAPPED 0x1000L
#define UNKNOWN 99

#define CALL_DEFINE(id, name, expect, ...) \
    static long call_##id(long unused) \
    { \
        (void)unused; \
        return __VA_ARGS__; \
    }
#define CALL_ROW(id, name, expect, ...) {name, call_##id, 0, expect, NULL},
#define CALLS(title, rows) {title, rows, ARRAY_SIZE(rows), true, NULL, NULL}


#endif
