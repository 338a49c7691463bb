/* What source.c and walk.c share. */
#ifndef ALLOCSCOPE_SOURCE_PRIVATE_H
#define ALLOCSCOPE_SOURCE_PRIVATE_H

#include "source.h"

#include <string.h>

/* How words and chunks lie, in bytes: glibc's SIZE_SZ and MALLOC_ALIGNMENT, from which its CHUNK_HDR_SZ and MINSIZE
 * follow. */
typedef struct as_shape {
    uint64_t word, alignment, page;
} as_shape;

static const as_shape AS_SHAPE_64 = {8, 16, 4096};

static inline uint64_t as_word(as_shape s, const unsigned char *bytes, size_t index)
{
    uint64_t wide;
    uint32_t narrow;
    if (s.word == sizeof wide) {
        memcpy(&wide, bytes + index * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, bytes + index * sizeof narrow, sizeof narrow);
    return narrow;
}

/* Of a chunk; two words. Also the size of a fencepost. */
static inline uint64_t as_header(as_shape s)
{
    return 2 * s.word;
}

static inline uint64_t as_min_chunk(as_shape s)
{
    return 4 * s.word;
}

/* sizeof(struct malloc_chunk). */
static inline uint64_t as_chunk_struct(as_shape s)
{
    return 6 * s.word;
}

/* What lies between the end of the last chunk that fits and the end of its page. */
static inline uint64_t as_slack(as_shape s)
{
    return s.alignment > as_header(s) ? s.alignment - as_header(s) : 0;
}

/* Can a chunk begin here? */
static inline int as_is_chunk(as_shape s, uint64_t address)
{
    return (address + as_header(s)) % s.alignment == 0;
}

struct as_source {
    int pid; /* -1: spans in memory */
    int pagemap;
    int no_scan, no_guard;
    as_shape shape;
    uint64_t state_page; /* what page states are told of: the pages of this machine */
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
