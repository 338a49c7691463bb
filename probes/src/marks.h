/* Sorted lists of addresses that a walk passes by in ascending order. */
#ifndef ALLOCSCOPE_MARKS_H
#define ALLOCSCOPE_MARKS_H

#include <stddef.h>
#include <stdint.h>

typedef struct marks {
    const uint64_t *at, *end;
    uint64_t missed;
} marks;

static inline int marked(marks *m, uint64_t address)
{
    while (m->at < m->end && *m->at < address) {
        m->at++;
        m->missed++;
    }
    if (m->at == m->end || *m->at != address)
        return 0;
    m->at++;
    return 1;
}

/* The address that comes next; UINT64_MAX: there is none. */
static inline uint64_t mark_ahead(const marks *m)
{
    return m->at < m->end ? *m->at : UINT64_MAX;
}

static inline marks marks_of(const uint64_t *list, size_t count)
{
    return (marks){list, list + count, 0};
}

/* Marks below where the walk stopped that it never came by: such a chunk lies inside another one. What lies beyond
 * belongs to the next row. */
static inline uint64_t never_met(const marks *m, uint64_t stopped_at)
{
    uint64_t count = m->missed;
    for (const uint64_t *at = m->at; at < m->end && *at < stopped_at; at++)
        count++;
    return count;
}

#endif
