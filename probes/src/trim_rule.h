/* malloc_trim's rule (glibc malloc.c, mtrim and systrim), told the free chunks of one row of chunks, in ascending
 * order: which resident bytes would go, and by how many system calls. Inlined into the walk, which asks about each free
 * chunk. */
#ifndef ALLOCSCOPE_TRIM_RULE_H
#define ALLOCSCOPE_TRIM_RULE_H

#include "page_map.h"
#include "runs.h"
#include "walk.h"

/* A row of neighbouring chunks that malloc_trim would see as one free chunk, and its whole pages that are resident.
 * What fastbin chunks have of those pages is counted apart (bytes; resident of what is not mlocked, and of what is);
 * tail: what they have behind pages_end, in a page that may yet become whole. */
typedef struct free_row {
    uint64_t start; /* 0: none */
    uint64_t pages_start, pages_end;
    uint64_t locked_from; /* madvise(MADV_DONTNEED) goes no further than to the first mlocked page */
    uint64_t resident_bytes, locked_bytes;
    uint64_t fast_bytes, fast_resident_bytes, fast_locked_bytes;
    uint64_t tail_bytes, tail_resident_bytes, tail_locked_bytes;
} free_row;

/* The rule at work on one region. */
typedef struct trimming {
    const as_region *region;
    as_shape shape;
    as_tally *tally;
    const run_list *runs;
    size_t row_hint, fast_hint;
    const uint64_t *locked, *locked_end;
    free_row row;
} trimming;

static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

/* Where mlocked memory next begins, or address itself if it lies in some. Rows ask in ascending order. */
static inline uint64_t next_locked(trimming *t, uint64_t address)
{
    while (t->locked < t->locked_end && t->locked[1] <= address)
        t->locked += 2;
    if (t->locked == t->locked_end)
        return UINT64_MAX;
    return t->locked[0] > address ? t->locked[0] : address;
}

static inline uint64_t clamp(uint64_t value, uint64_t low, uint64_t high)
{
    return value < low ? low : value < high ? value : high;
}

/* Adds the resident bytes of a fastbin chunk's [start, end): those before the row's mlocked memory, and the others. */
static inline void count_resident(trimming *t, uint64_t start, uint64_t end, uint64_t *open, uint64_t *locked)
{
    uint64_t stays = clamp(t->row.locked_from, start, end);
    *open += runs_resident(t->runs, &t->fast_hint, start, stays);
    *locked += runs_resident(t->runs, &t->fast_hint, stays, end);
}

/* A fastbin chunk's bytes [start, end) of the row, from its first whole page on. */
static inline void row_count_fast(trimming *t, uint64_t start, uint64_t end)
{
    free_row *row = &t->row;
    uint64_t split = clamp(row->pages_end, start, end);
    if (start < split) {
        row->fast_bytes += split - start;
        count_resident(t, start, split, &row->fast_resident_bytes, &row->fast_locked_bytes);
    }
    if (split < end) {
        row->tail_bytes += end - split;
        count_resident(t, split, end, &row->tail_resident_bytes, &row->tail_locked_bytes);
    }
}

static inline void row_extend(trimming *t, uint64_t start, uint64_t end, int fast)
{
    free_row *row = &t->row;
    uint64_t page = t->region->page_size;
    if (!row->start) {
        uint64_t first = round_up(start + as_chunk_struct(t->shape), page);
        *row =
            (free_row){.start = start, .pages_start = first, .pages_end = first, .locked_from = next_locked(t, first)};
    }
    uint64_t whole = end & ~(page - 1);
    if (whole > row->pages_end) {
        uint64_t stays = clamp(row->locked_from, row->pages_end, whole);
        row->resident_bytes += runs_resident(t->runs, &t->row_hint, row->pages_end, stays);
        row->locked_bytes += runs_resident(t->runs, &t->row_hint, stays, whole);
        row->pages_end = whole;
        row->fast_bytes += row->tail_bytes;
        row->fast_resident_bytes += row->tail_resident_bytes;
        row->fast_locked_bytes += row->tail_locked_bytes;
        row->tail_bytes = row->tail_resident_bytes = row->tail_locked_bytes = 0;
    }
    if (fast && start < end && end > row->pages_start)
        row_count_fast(t, start > row->pages_start ? start : row->pages_start, end);
}

/* The row ends at something that stays: its whole pages would be released. */
static inline void row_close(trimming *t)
{
    free_row *row = &t->row;
    if (row->start && row->pages_end > row->pages_start) {
        t->tally->trimmable_bytes += row->resident_bytes;
        t->tally->bin_trimmable_bytes += row->resident_bytes - row->fast_resident_bytes;
        t->tally->bin_whole_bytes += row->pages_end - row->pages_start - row->fast_bytes;
        t->tally->locked_trim_bytes += row->locked_bytes;
        t->tally->bin_locked_bytes += row->locked_bytes - row->fast_locked_bytes;
        t->tally->pinned_bytes -= row->resident_bytes + row->locked_bytes;
        t->tally->trim_range_count++;
        page_map_trimmable(t->region, row->pages_start, clamp(row->locked_from, row->pages_start, row->pages_end));
    }
    row->start = 0;
}

/* The row, if any, merges into top; what of it goes back through the break. */
static inline void row_meets_top(trimming *t, uint64_t top, uint64_t top_end)
{
    const as_region *g = t->region;
    uint64_t start = t->row.start ? t->row.start : top, size = top_end - start;
    uint64_t keep = as_min_chunk(t->shape), spare = size > keep ? size - keep - 1 : 0;
    t->row.start = 0;
    if (!g->trim_unit || spare <= g->trim_pad)
        return;
    uint64_t extra = (spare - g->trim_pad) / g->trim_unit * g->trim_unit;
    if (!extra)
        return;
    uint64_t released = top_end - extra, of_row = 0;
    if (released < top)
        of_row = runs_resident(t->runs, &t->row_hint, released, top);
    uint64_t of_top = runs_resident(t->runs, &t->row_hint, released < top ? top : released, top_end);
    t->tally->trimmable_bytes += of_row + of_top;
    t->tally->top_trimmable_bytes = of_top;
    t->tally->trim_break_bytes = extra;
    t->tally->trim_range_count++;
    t->tally->pinned_bytes -= of_row;
    page_map_trimmable(g, released, top_end);
}

#endif
