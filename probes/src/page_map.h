/* What each page of a row of chunks is used for, one byte for a page, told by the walk as it goes.
 *
 * Strategy: chunks come in ascending order, so the held bytes of one page are added up until the next page begins. What the page
 * table says comes last and counts more: a page that is not in memory is absent or swapped whatever chunks lie on it. */
#ifndef ALLOCSCOPE_PAGE_MAP_H
#define ALLOCSCOPE_PAGE_MAP_H

#include "runs.h"
#include "walk.h"

typedef struct page_map {
    const as_region *region;
    uint64_t start;            /* of the first page */
    uint64_t page, held_bytes; /* the page that is being added up, and what is held on it so far */
} page_map;

void page_map_open(page_map *map, const as_region *region);
/* [start, end) is held: by the program, or by malloc itself. */
void page_map_held(page_map *map, uint64_t start, uint64_t end);
/* [start, end) is free, for malloc to hand out again. */
void page_map_free(page_map *map, uint64_t start, uint64_t end);
/* Puts in what the page table says; the map is complete then. */
void page_map_close(page_map *map, const run_list *runs);
/* malloc_trim would release the whole pages in [start, end). */
void page_map_trimmable(const as_region *region, uint64_t start, uint64_t end);

#endif
