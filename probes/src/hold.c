/* Holding a heap's memory: read once, in large blocks, and then asked often. Following a free list through it costs no system call
 * any more, and all questions about it are answered as of one moment. */
#define _GNU_SOURCE
#include "runs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

static const uint64_t PAGE = 4096;
enum { HOLD_PAGES = AS_HOLD_MAX / 4096, BLOCK_PIECES = 256, BLOCK_BYTES = 1 << 20 };

static void mark(unsigned char *there, uint64_t base, uint64_t start, uint64_t end)
{
    memset(there + (start - base) / PAGE, 1, (end - start) / PAGE);
}

int as_read_pieces(as_source *s, struct iovec *pieces, size_t count, uint64_t base, unsigned char *bytes,
                   unsigned char *there)
{
    struct iovec local[BLOCK_PIECES];
    for (size_t done = 0; done < count;) {
        size_t batch = count - done < BLOCK_PIECES ? count - done : BLOCK_PIECES;
        for (size_t i = 0; i < batch; i++)
            local[i] = (struct iovec){bytes + ((uint64_t)(uintptr_t)pieces[done + i].iov_base - base),
                                      pieces[done + i].iov_len};
        ssize_t got = process_vm_readv(s->pid, local, batch, pieces + done, batch, 0);
        if (got < 0 && errno != EFAULT)
            return errno;
        size_t whole = 0;
        for (; got > 0 && whole < batch && (size_t)got >= pieces[done + whole].iov_len; whole++) {
            uint64_t start = (uint64_t)(uintptr_t)pieces[done + whole].iov_base;
            mark(there, base, start, start + pieces[done + whole].iov_len);
            got -= (ssize_t)pieces[done + whole].iov_len;
        }
        done += whole;
        if (whole < batch) { /* the piece that failed: its whole pages that arrived count */
            uint64_t start = (uint64_t)(uintptr_t)pieces[done].iov_base;
            if (got > 0)
                mark(there, base, start, start + (uint64_t)got / PAGE * PAGE);
            done++;
        }
    }
    return 0;
}

static int read_runs(as_source *s, const run_list *list)
{
    struct iovec pieces[BLOCK_PIECES];
    size_t count = 0, bytes = 0;
    int error = 0;
    for (size_t i = 0; !error && i < list->count; i++) {
        if (!(list->runs[i].flags & AS_PRESENT))
            continue;
        for (uint64_t at = list->runs[i].start, end = list->runs[i].end; !error && at < end;) {
            uint64_t size = end - at < BLOCK_BYTES - bytes ? end - at : BLOCK_BYTES - bytes;
            pieces[count++] = (struct iovec){(void *)(uintptr_t)at, size};
            bytes += size;
            at += size;
            if (count == BLOCK_PIECES || bytes == BLOCK_BYTES) {
                error = as_read_pieces(s, pieces, count, s->held_start, s->held, s->held_pages);
                count = bytes = 0;
            }
        }
    }
    return !error && count ? as_read_pieces(s, pieces, count, s->held_start, s->held, s->held_pages) : error;
}

static void copy_runs(as_source *s, const run_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        uint64_t start = list->runs[i].start, size = list->runs[i].end - start;
        if ((list->runs[i].flags & AS_PRESENT) && !as_read_present(s, start, s->held + (start - s->held_start), size))
            mark(s->held_pages, s->held_start, start, start + size);
    }
}

int as_hold(as_source *s, uint64_t start, uint64_t end)
{
    run_list list;
    const uint64_t within = s->state_page - 1; /* states are told of this machine's pages, which may be larger */
    start &= ~within;
    end = (end + within) & ~within;
    as_let_go(s);
    if (end - start > AS_HOLD_MAX)
        return E2BIG;
    if (!s->held) {
        s->held = mmap(NULL, AS_HOLD_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        s->held_pages = malloc(HOLD_PAGES + 1);
        if (s->held == MAP_FAILED || !s->held_pages) {
            as_hold_free(s);
            return ENOMEM;
        }
        madvise(s->held, AS_HOLD_MAX, MADV_HUGEPAGE); /* fewer faults and TLB misses; does no harm where refused */
    }
    int error = runs_load(s, start, end, &list);
    if (error)
        return error;
    memset(s->held_pages, 0, HOLD_PAGES + 1);
    s->held_start = start;
    s->held_end = end;
    if (s->pid < 0)
        copy_runs(s, &list);
    else
        error = read_runs(s, &list);
    runs_free(&list);
    if (error)
        as_let_go(s);
    return error;
}

void as_let_go(as_source *s)
{
    s->held_start = s->held_end = 0;
}

void as_hold_free(as_source *s)
{
    as_let_go(s);
    if (s->held && s->held != MAP_FAILED)
        munmap(s->held, AS_HOLD_MAX);
    free(s->held_pages);
    s->held = s->held_pages = NULL;
}

int as_read_held(const as_source *s, uint64_t address, void *buffer, size_t size)
{
    for (uint64_t page = (address - s->held_start) / PAGE; page <= (address + size - 1 - s->held_start) / PAGE; page++)
        if (!s->held_pages[page])
            return ENODATA;
    memcpy(buffer, s->held + (address - s->held_start), size);
    return 0;
}
