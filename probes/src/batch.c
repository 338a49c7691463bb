#define _GNU_SOURCE
#include "batch.h"
#include "headers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

static const uint64_t PAGE = 4096;
enum { IOVECS_AT_ONCE = 1024, FEW = 8 };

int batch_open(batch *b, as_source *source)
{
    b->source = source;
    b->groups = calloc(BATCH_GROUPS, sizeof *b->groups);
    return b->groups ? 0 : ENOMEM;
}

void batch_close(batch *b)
{
    free(b->groups);
    b->groups = NULL;
}

static int load_group(batch *b, presence_group *group, uint64_t number)
{
    as_run runs[BATCH_GROUP_PAGES];
    uint64_t start = number * BATCH_GROUP_PAGES * PAGE, end = start + BATCH_GROUP_PAGES * PAGE, resume;
    size_t count;
    int error = as_runs(b->source, start, end, runs, BATCH_GROUP_PAGES, &count, &resume);
    if (error)
        return error;
    if (resume < end) /* so many runs fit into so many pages */
        return EIO;
    *group = (presence_group){number + 1, 0};
    for (size_t i = 0; i < count; i++)
        for (uint64_t at = runs[i].start; (runs[i].flags & AS_PRESENT) && at < runs[i].end; at += PAGE)
            group->bits |= 1ull << at / PAGE % BATCH_GROUP_PAGES;
    return 0;
}

static int page_there(batch *b, uint64_t address, int *there)
{
    uint64_t page = address / PAGE, number = page / BATCH_GROUP_PAGES;
    presence_group *group = &b->groups[number % BATCH_GROUPS];
    *there = 0;
    if (address >> 48)
        return 0;
    if (group->number != number + 1) {
        int error = load_group(b, group, number);
        if (error)
            return error;
    }
    *there = group->bits >> page % BATCH_GROUP_PAGES & 1;
    return 0;
}

static int range_there(batch *b, uint64_t address, size_t size, int *there)
{
    int error = 0;
    *there = 1;
    for (uint64_t at = address; !error && *there && at - address < size; at = (at / PAGE + 1) * PAGE)
        error = page_there(b, at, there);
    return error;
}

/* One call for up to IOVECS_AT_ONCE addresses; a read that fails is skipped and the rest tried again. */
static int read_some(batch *b, const uint64_t *addresses, const size_t *wanted, size_t count, size_t size,
                     unsigned char *buffer, uint8_t *ok)
{
    struct iovec local[IOVECS_AT_ONCE], remote[IOVECS_AT_ONCE];
    for (size_t i = 0; i < count; i++) {
        local[i] = (struct iovec){buffer + wanted[i] * size, size};
        remote[i] = (struct iovec){(void *)(uintptr_t)addresses[wanted[i]], size};
    }
    for (size_t done = 0; done < count;) {
        ssize_t got = as_peek(b->source, local + done, remote + done, count - done);
        if (got < 0 && errno != EFAULT)
            return errno;
        size_t whole = got > 0 ? (size_t)got / size : 0;
        for (size_t i = 0; i < whole; i++)
            ok[wanted[done + i]] = 1;
        done += whole < count - done ? whole + 1 : whole;
    }
    return 0;
}

int batch_read(batch *b, const uint64_t *addresses, size_t count, size_t size, void *buffer, uint8_t *ok)
{
    size_t wanted[IOVECS_AT_ONCE], pending = 0;
    memset(ok, !size, count);
    for (size_t i = 0; size && i < count; i++) {
        int there = 0, error = 0;
        uint64_t word;
        if (size == sizeof word && headers_word(b->source->headers, addresses[i], &word)) {
            memcpy((unsigned char *)buffer + i * size, &word, size);
            ok[i] = 1;
        } else {
            error = range_there(b, addresses[i], size, &there);
        }
        if (error)
            return error;
        if (there && b->source->pid < 0)
            ok[i] = !as_read_present(b->source, addresses[i], (unsigned char *)buffer + i * size, size);
        else if (there)
            wanted[pending++] = i;
        if (pending == IOVECS_AT_ONCE || (i + 1 == count && pending)) {
            error = read_some(b, addresses, wanted, pending, size, buffer, ok);
            if (error)
                return error;
            pending = 0;
        }
    }
    return 0;
}

int as_read_each(as_source *s, const uint64_t *addresses, size_t count, size_t size, void *buffer, uint8_t *ok)
{
    if (count <= FEW) { /* cheaper to ask for each page than for 2 MiB around it */
        for (size_t i = 0; i < count; i++) {
            int error = as_read(s, addresses[i], (char *)buffer + i * size, size);
            if (error && error != ENODATA && error != EFAULT)
                return error;
            ok[i] = !error;
        }
        return 0;
    }
    batch b;
    int error = batch_open(&b, s);
    if (!error)
        error = batch_read(&b, addresses, count, size, buffer, ok);
    batch_close(&b);
    return error;
}
