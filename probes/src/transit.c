#define _GNU_SOURCE
#include "transit.h"
#include "source_private.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

static const uint64_t SWAPPED = 1ull << 62, FRAME = (1ull << 55) - 1, TYPE = 31;
enum { FIRST_OF_THE_KERNEL = 20, TICK_NS = 100000, ENTRIES = 512 };

static int in_transit(const as_source *s, uint64_t entry)
{
    if (!(entry & SWAPPED))
        return 0;
    return entry & FRAME ? (entry & TYPE) >= FIRST_OF_THE_KERNEL : s->no_swap;
}

static ssize_t read_entries(const as_source *s, uint64_t page, uint64_t *entries, size_t count)
{
    ssize_t got = pread(s->pagemap, entries, count * sizeof *entries, (off_t)(page / s->state_page * sizeof *entries));
    return got < 0 ? -1 : got / (ssize_t)sizeof *entries;
}

uint64_t as_settled(as_source *s, uint64_t page, uint64_t entry)
{
    const struct timespec tick = {0, TICK_NS};
    for (; in_transit(s, entry) && s->patience; s->patience--) {
        nanosleep(&tick, NULL);
        if (read_entries(s, page, &entry, 1) != 1)
            break;
    }
    return entry;
}

int as_settle(as_source *s, const as_run *runs, size_t count, int *waited)
{
    uint64_t entries[ENTRIES];
    *waited = 0;
    for (size_t i = 0; i < count && s->patience; i++) {
        if (!(runs[i].flags & AS_SWAPPED))
            continue;
        for (uint64_t at = runs[i].start; at < runs[i].end;) {
            uint64_t pages = (runs[i].end - at) / s->state_page;
            ssize_t got = read_entries(s, at, entries, pages < ENTRIES ? pages : ENTRIES);
            if (got < 0)
                return errno;
            if (!got)
                break;
            for (ssize_t k = 0; k < got; k++, at += s->state_page)
                *waited |= as_settled(s, at, entries[k]) != entries[k];
        }
    }
    return 0;
}
