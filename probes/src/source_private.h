/* What source.c and walk.c share. */
#ifndef ALLOCSCOPE_SOURCE_PRIVATE_H
#define ALLOCSCOPE_SOURCE_PRIVATE_H

#include "source.h"

struct as_source {
    int pid;  /* -1: spans in memory or in a file */
    int file; /* where spans lie; -1: in memory */
    int pagemap;
    int no_scan, no_guard;
    as_span *spans;
    as_run *runs;
    size_t span_count, run_count;
    struct word_index *words; /* instead of spans; NULL: none */
    /* what as_hold read: bytes of [held_start, held_end), and for each page whether it was there; the buffer outlives as_let_go */
    unsigned char *held, *held_pages;
    uint64_t held_start, held_end;
};

static inline int as_holds(const as_source *s, uint64_t address)
{
    return address >= s->held_start && address < s->held_end;
}

static inline int as_resident(uint64_t flags)
{
    return (flags & AS_PRESENT) && !(flags & AS_ZERO);
}

/* Asks the processor for a word of what is held that is wanted soon. */
static inline void as_prefetch_held(const as_source *s, uint64_t address)
{
    if (as_holds(s, address))
        __builtin_prefetch(s->held + (address - s->held_start));
}

/* Reads from what is held; ENODATA where a page was not there. */
int as_read_held(const as_source *source, uint64_t address, void *buffer, size_t size);
void as_hold_free(as_source *source);
/* Reads every piece to the place that offset_of its address gives, and marks its pages in there; a piece that went away
 * meanwhile is left out. */
struct iovec;
int as_read_pieces(as_source *source, struct iovec *pieces, size_t count, uint64_t base, unsigned char *bytes,
                   unsigned char *there);

void as_add_residency(const as_run *runs, size_t count, as_residency *out);
/* Reads without asking first whether the pages are there: the caller knows. */
int as_read_present(as_source *source, uint64_t address, void *buffer, size_t size);

#endif
