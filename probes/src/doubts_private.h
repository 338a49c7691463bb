/* What the walk writes down about chunks in doubt (see doubts.h). */
#ifndef ALLOCSCOPE_DOUBTS_PRIVATE_H
#define ALLOCSCOPE_DOUBTS_PRIVATE_H

#include "doubts.h"
#include "runs.h"

/* What lies in rows of free chunks and chunks in doubt, in ascending order: entries that touch are of one row. */
enum { DOUBT_FREE = 0, DOUBT_TOP = 1, DOUBT_CHUNK = 2 };
/* Of a chunk in doubt: do other live chunks of its class hold its first page, its last one? Is it in a fastbin? */
enum { DOUBT_HELD_BEFORE = 1, DOUBT_HELD_AFTER = 2, DOUBT_FAST = 4 };

typedef struct doubt {
    uint64_t address;
    uint64_t next;    /* of a chunk in doubt: what its link leads to; of others: where they end */
    uint32_t earlier; /* the number, plus 1, of the one before it of the same class, if that ends on the same page */
    uint16_t size;    /* of a chunk in doubt */
    uint8_t kind, flags;
} doubt;

enum { DOUBT_CLASSES = 64 }; /* fastbins have chunks of none beyond */

struct as_doubts {
    as_region region; /* as it was walked, without the lists of addresses */
    as_shape shape;
    run_list runs;
    doubt *items;
    size_t count, cap;
    int incomplete;                /* something did not fit */
    int in_row;                    /* the row that the walk is in is being written down */
    uint32_t pending[DOUBT_CLASSES]; /* the number, plus 1, of the last one whose last page others may yet hold */
};

/* May the chunk in use be in a fastbin, and what does its link lead to? */
static inline int doubts_allow(const as_doubts *log, uint64_t chunk, size_t class, uint64_t link, uint64_t *next)
{
    const as_region *g = &log->region;
    if (class >= DOUBT_CLASSES || !(g->fast_classes >> class & 1))
        return 0;
    *next = link ^ (chunk + as_header(log->shape)) >> 12;
    return !*next || (*next >= g->links_low && *next < g->links_high && as_is_chunk(log->shape, *next));
}

void doubts_add(as_doubts *log, int kind, uint64_t start, uint64_t end);
void doubts_add_chunk(as_doubts *log, uint64_t chunk, uint64_t size, uint64_t next, int held_before);
/* The live chunk holds the page that it begins on: chunks in doubt of its class that end there add nothing to it. */
void doubts_note_live(as_doubts *log, uint64_t chunk, size_t class);

static inline void doubts_meet_live(as_doubts *log, uint64_t chunk, size_t class)
{
    if (class < DOUBT_CLASSES && log->pending[class])
        doubts_note_live(log, chunk, class);
}

#endif
