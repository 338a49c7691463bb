/* Looking things up in a sorted list of addresses. */
#ifndef ALLOCSCOPE_SORTED_H
#define ALLOCSCOPE_SORTED_H

#include <stddef.h>
#include <stdint.h>

/* The first address of the list that is larger; UINT64_MAX when there is none. */
static inline uint64_t next_after(const uint64_t *list, size_t count, uint64_t address)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list[middle] <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count ? list[low] : UINT64_MAX;
}

#endif
