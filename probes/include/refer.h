/* Who points at given pieces of memory: one pass over the words of the writable memory, as wide as the source's, as a conservative
 * garbage collector makes it. A word that happens to have such a value is told too. */
#ifndef ALLOCSCOPE_REFER_H
#define ALLOCSCOPE_REFER_H

#include "source.h"

/* [start, end): pointers into it are looked for. */
typedef struct as_target {
    uint64_t start, end;
} as_target;

typedef struct as_reference {
    uint64_t where;  /* the address of the word */
    uint64_t value;  /* what it holds */
    uint64_t target; /* the index of the piece that it points into */
} as_reference;

/* Scans the present pages of [start, end). targets: ascending, apart from each other. Of each target the first most references are
 * written to out (target_count * most places, count of them filled), and all of them counted in totals. scanned_bytes is added to;
 * done is where the scan ended: end, or where deadline_ns (CLOCK_MONOTONIC, 0: none) came. */
int as_references(as_source *source, uint64_t start, uint64_t end, const as_target *targets, size_t target_count, size_t most,
                  uint64_t deadline_ns, as_reference *out, size_t *count, uint64_t *totals, uint64_t *scanned_bytes,
                  uint64_t *done);

#endif
