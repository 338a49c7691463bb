/* What source.c and walk.c share. */
#ifndef ALLOCSCOPE_SOURCE_PRIVATE_H
#define ALLOCSCOPE_SOURCE_PRIVATE_H

#include "source.h"

struct as_source {
    int pid; /* -1: spans in memory */
    int pagemap;
    int no_scan, no_guard;
    as_span *spans;
    as_run *runs;
    size_t span_count, run_count;
    struct word_index *words; /* instead of spans; NULL: none */
    struct header_table *headers; /* what as_keep_headers keeps; NULL: nothing */
};

static inline int as_resident(uint64_t flags)
{
    return (flags & AS_PRESENT) && !(flags & AS_ZERO);
}

void headers_free(struct header_table *table);
void as_add_residency(const as_run *runs, size_t count, as_residency *out);
/* Reads without asking first whether the pages are there: the caller knows. */
int as_read_present(as_source *source, uint64_t address, void *buffer, size_t size);

#endif
