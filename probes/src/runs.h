/* A sorted list of page runs, and questions about overlaps with it. Questions come in nearly ascending order, so each asker keeps
 * a hint: the index of the run it met last. */
#ifndef ALLOCSCOPE_RUNS_H
#define ALLOCSCOPE_RUNS_H

#include "source_private.h"

typedef struct run_list {
    as_run *runs;
    size_t count;
} run_list;

int runs_load(as_source *source, uint64_t start, uint64_t end, run_list *list);
void runs_free(run_list *list);

/* The first run that ends after address. */
static inline size_t runs_seek(const run_list *list, size_t hint, uint64_t address)
{
    while (hint > 0 && list->runs[hint - 1].end > address)
        hint--;
    while (hint < list->count && list->runs[hint].end <= address)
        hint++;
    return hint;
}

/* Resident bytes within [start, end). */
static inline uint64_t runs_resident(const run_list *list, size_t *hint, uint64_t start, uint64_t end)
{
    uint64_t sum = 0;
    if (*hint < list->count && list->runs[*hint].start <= start && end <= list->runs[*hint].end)
        return as_resident(list->runs[*hint].flags) ? end - start : 0; /* nearly always */
    size_t i = *hint = runs_seek(list, *hint, start);
    for (; i < list->count && list->runs[i].start < end; i++) {
        if (!as_resident(list->runs[i].flags))
            continue;
        uint64_t from = list->runs[i].start > start ? list->runs[i].start : start;
        uint64_t to = list->runs[i].end < end ? list->runs[i].end : end;
        sum += to - from;
    }
    return sum;
}

#endif
