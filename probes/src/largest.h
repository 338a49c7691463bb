/* The largest free chunks of a tally. */
#ifndef ALLOCSCOPE_LARGEST_H
#define ALLOCSCOPE_LARGEST_H

#include "walk.h"

/* Keeps the largest free chunks; of equals the first. */
static inline void note_free(as_tally *t, uint64_t chunk, uint64_t size, uint64_t resident)
{
    as_free_chunk *table = t->largest;
    size_t place = AS_LARGEST - 1;
    if (size <= table[place].size)
        return;
    for (; place > 0 && table[place - 1].size < size; place--)
        table[place] = table[place - 1];
    table[place] = (as_free_chunk){chunk, size, resident};
}

#endif
