/* The pages that live chunks of one size class hold, each counted once: chunks come in ascending order. */
#ifndef ALLOCSCOPE_HELD_H
#define ALLOCSCOPE_HELD_H

#include "runs.h"
#include "walk.h"

/* Whole pages [first, beyond) are held. */
static inline void hold_pages(const run_list *runs, size_t *hint, as_class *class, uint64_t first, uint64_t beyond,
                              uint64_t page_size)
{
    if (first < class->last_page)
        first = class->last_page;
    if (first < beyond) {
        class->pages_held += runs_resident(runs, hint, first, beyond) >> __builtin_ctzll(page_size);
        class->last_page = beyond;
    }
}

#endif
