/* Size classes and the hash, for callers outside the walk. */
#include "classes_private.h"

uint64_t as_hash(uint64_t address)
{
    return hash_of(address);
}

size_t as_class_of(uint64_t size)
{
    return class_of(size);
}

uint64_t as_class_min(size_t index)
{
    if (index < EXACT_CLASSES)
        return index * 16;
    if (index == EXACT_CLASSES)
        return EXACT_MAX + 16;
    size_t step = index - EXACT_CLASSES;
    return (8ull + step % 8) << (step / 8 + 7);
}
