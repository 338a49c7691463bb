/* Where does a row of chunks begin? Told by where the chunks lead: garbage does not arrive at a place that is known. */
#include "walk.h"
#include "sorted.h"
#include "source_private.h"

#include <errno.h>
#include <stdlib.h>

enum { PREV_INUSE = 1, FLAG_BITS = 7, BLOCK_BYTES = 1 << 16, RUNS_AT_ONCE = 64, MAX_HEADER = 16 };

/* Can a chunk have this size? Only top, which is a known one or ends at the limit, need not be a multiple of the alignment. */
static int plausible(as_shape s, uint64_t chunk, uint64_t size, uint64_t limit, int known)
{
    uint64_t room = limit - chunk, unit = known ? as_header(s) : s.alignment;
    return size >= as_min_chunk(s) && size <= room && (size % unit == 0 || size == room);
}

/* The size word of the chunk at address, flags included. */
static int read_size(as_source *source, uint64_t address, uint64_t *size)
{
    unsigned char header[MAX_HEADER];
    int error = as_read(source, address, header, as_header(source->shape));
    if (!error)
        *size = as_word(source->shape, header, 1);
    return error;
}

/* Two fenceposts, or three, of which the last ends a page. */
static int at_fenceposts(as_source *source, uint64_t address)
{
    const as_shape s = source->shape;
    const uint64_t fencepost = as_header(s);
    for (int i = 0; i < 3; i++, address += fencepost) {
        uint64_t size;
        if (read_size(source, address, &size) || (size & ~(uint64_t)PREV_INUSE) != fencepost)
            return 0;
        if (i > 0 && (address + fencepost + as_slack(s)) % s.page == 0)
            return 1;
    }
    return 0;
}

int as_chain_reaches(as_source *source, uint64_t address, uint64_t limit, const uint64_t *known, size_t known_count,
                     int *reaches)
{
    enum { MAX_STEPS = 1000000 };
    const as_shape s = source->shape;
    *reaches = 0;
    for (int i = 0; i < MAX_STEPS && address < limit; i++) {
        uint64_t size;
        if (read_size(source, address, &size))
            return 0;
        size &= ~(uint64_t)FLAG_BITS;
        if (i > 0 && size == as_header(s)) {
            *reaches = at_fenceposts(source, address);
            return 0;
        }
        int is_known = i > 0 && next_after(known, known_count, address - 1) == address;
        if (!plausible(s, address, size, limit, is_known))
            return 0;
        if (is_known) {
            *reaches = 1;
            return 0;
        }
        address += size;
    }
    *reaches = address + as_slack(s) == limit || address == limit; /* top goes to the end, other chunks leave the slack */
    return 0;
}

typedef struct search {
    as_source *source;
    uint64_t limit;
    const uint64_t *known;
    size_t known_count;
    unsigned char *block;
} search;

/* The first row that begins in [start, end), pages that are there; 0 when there is none. */
static uint64_t search_pages(const search *s, uint64_t start, uint64_t end)
{
    const as_shape shape = s->source->shape;
    const uint64_t step = as_header(shape);
    for (uint64_t at = start; at < end;) {
        uint64_t size = end - at < BLOCK_BYTES ? end - at : BLOCK_BYTES;
        size_t count = as_read_present(s->source, at, s->block, size) ? 0 : size / step;
        for (size_t i = 0; i < count; i++) {
            uint64_t chunk = at + i * step, length = as_word(shape, s->block, 2 * i + 1) - PREV_INUSE;
            int reaches = 0;
            if (as_is_chunk(shape, chunk) && plausible(shape, chunk, length, s->limit, 0))
                as_chain_reaches(s->source, chunk, s->limit, s->known, s->known_count, &reaches);
            if (reaches)
                return chunk;
        }
        at += size;
    }
    return 0;
}

int as_row_start(as_source *source, uint64_t low, uint64_t high, uint64_t limit, const uint64_t *known,
                 size_t known_count, uint64_t *start)
{
    as_run runs[RUNS_AT_ONCE];
    search s = {source, limit, known, known_count, malloc(BLOCK_BYTES)};
    int error = s.block ? 0 : ENOMEM;
    *start = 0;
    low = (low + as_header(source->shape) - 1) & ~(as_header(source->shape) - 1);
    high = high < limit ? high : limit;
    while (!error && !*start && low < high) {
        size_t count;
        uint64_t resume;
        error = as_runs(source, low, high, runs, RUNS_AT_ONCE, &count, &resume);
        for (size_t i = 0; !error && !*start && i < count; i++) {
            uint64_t from = runs[i].start > low ? runs[i].start : low, to = runs[i].end < high ? runs[i].end : high;
            if (runs[i].flags & AS_PRESENT)
                *start = search_pages(&s, from, to);
        }
        low = resume;
    }
    free(s.block);
    return error;
}
