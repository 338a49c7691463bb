/* Size classes, and the hash that lists are compared by, for those who ask about every chunk. */
#ifndef ALLOCSCOPE_CLASSES_PRIVATE_H
#define ALLOCSCOPE_CLASSES_PRIVATE_H

#include "walk.h"

enum { EXACT_CLASSES = 66, EXACT_MAX = 1040 };

static inline uint64_t hash_of(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline size_t class_of(uint64_t size)
{
    if (size <= EXACT_MAX)
        return size / 16;
    unsigned log = 63 - (unsigned)__builtin_clzll(size);
    size_t index = EXACT_CLASSES + (log - 10) * 8 + ((size >> (log - 3)) & 7);
    return index < AS_CLASSES ? index : AS_CLASSES - 1;
}

#endif
