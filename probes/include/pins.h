/* What holds free memory hostage in a row of chunks: its highest held chunk, which keeps the end of the heap where it is, and page by
 * page the sizes of the live chunks that share pages with free ones. */
#ifndef ALLOCSCOPE_PINS_H
#define ALLOCSCOPE_PINS_H

#include "walk.h"

enum { AS_HELD_NOTHING = 0, AS_HELD_LIVE = 1, AS_HELD_TCACHE = 2, AS_HELD_FASTBIN = 3, AS_HELD_STRUCT = 4 };

typedef struct as_pins {
    /* The highest chunk that is neither free for malloc_trim to merge nor top, and what it is; 0: there is none. */
    uint64_t last, last_size, last_kind;
    /* The row of such chunks without a free one between them that it ends: where it begins and how many they are; and the free row
     * below it: where that begins, which is run_start if there is none. */
    uint64_t run_start, run_count, below_start;
    /* Resident bytes of free chunks, and the live chunks, on pages on which all live chunks are of one size class; and such bytes
     * on pages with live chunks of several. A page that malloc_trim would release is none of these. */
    uint64_t pinned_bytes[AS_CLASSES], pinning_count[AS_CLASSES];
    uint64_t mixed_bytes;
    uint64_t parked_bytes; /* the same on pages that no live chunk holds, only chunks of a thread cache or fastbin, or such a cache itself */
} as_pins;

/* as_walk, which fills in pins too. */
int as_walk_pins(as_source *source, const as_region *region, as_pins *pins, as_tally *tally, as_class *classes);
/* Which chunk of the row [first, limit) each address (ascending) lies in: its start goes to chunks, 0 where headers do not lead there.
 * deadline_ns: CLOCK_MONOTONIC, 0: none. */
int as_chunks_at(as_source *source, uint64_t first, uint64_t limit, const uint64_t *addresses, size_t count, uint64_t deadline_ns,
                 uint64_t *chunks);

#endif
