/* Has the time come at which nothing more is to be started? */
#ifndef ALLOCSCOPE_DEADLINE_H
#define ALLOCSCOPE_DEADLINE_H

#include <stdint.h>
#include <time.h>

/* deadline_ns: CLOCK_MONOTONIC; 0: there is none. */
static inline int deadline_passed(uint64_t deadline_ns)
{
    struct timespec t;
    if (!deadline_ns)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec > deadline_ns;
}

#endif
