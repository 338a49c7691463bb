#define _GNU_SOURCE
#include "window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

int window_open(window *w, as_source *source, const run_list *runs, uint64_t limit)
{
    memset(w, 0, sizeof *w);
    w->source = source;
    w->runs = runs;
    w->limit = (limit + WINDOW_PAGE - 1) & ~(uint64_t)(WINDOW_PAGE - 1);
    w->bytes = malloc((size_t)WINDOW_PAGES * WINDOW_PAGE);
    return w->bytes ? 0 : ENOMEM;
}

void window_close(window *w)
{
    free(w->bytes);
    w->bytes = NULL;
}

static void mark(unsigned char *there, uint64_t base, uint64_t start, uint64_t end)
{
    memset(there + (start - base) / WINDOW_PAGE, 1, (end - start) / WINDOW_PAGE);
}

/* Has the target every page of the pieces to itself? Then they can be pinned, which is quicker, and nothing changes (see as_peek).
 * Bit 56 of a pagemap entry (Linux 4.2; before, it is 0). */
static int exclusive(as_source *s, const struct iovec *pieces, size_t count)
{
    const uint64_t alone = 1ull << 56;
    uint64_t entries[WINDOW_PAGES], all = alone;
    for (size_t i = 0; i < count && all; i++) {
        size_t pages = pieces[i].iov_len / WINDOW_PAGE;
        ssize_t size = (ssize_t)(pages * sizeof *entries);
        off_t at = (off_t)((uint64_t)(uintptr_t)pieces[i].iov_base / WINDOW_PAGE * sizeof *entries);
        if (pread(s->pagemap, entries, (size_t)size, at) != size)
            return 0;
        for (size_t page = 0; page < pages; page++)
            all &= entries[page];
    }
    return all != 0;
}

/* Reads every piece to its place in the block, and marks its pages as there; a piece that went away meanwhile is left out. */
static int read_pieces(as_source *s, const struct iovec *pieces, size_t count, uint64_t base, unsigned char *bytes,
                       unsigned char *there)
{
    struct iovec local[WINDOW_PAGES];
    int pin = exclusive(s, pieces, count);
    for (size_t done = 0; done < count;) {
        size_t batch = count - done < WINDOW_PAGES ? count - done : WINDOW_PAGES;
        for (size_t i = 0; i < batch; i++)
            local[i] = (struct iovec){bytes + ((uint64_t)(uintptr_t)pieces[done + i].iov_base - base),
                                      pieces[done + i].iov_len};
        ssize_t got = pin ? process_vm_readv(s->pid, local, batch, pieces + done, batch, 0)
                          : as_peek(s, local, pieces + done, batch);
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
                mark(there, base, start, start + (uint64_t)got / WINDOW_PAGE * WINDOW_PAGE);
            done++;
        }
    }
    return 0;
}

int window_move(window *w, uint64_t address)
{
    struct iovec pieces[WINDOW_PAGES];
    size_t count = 0;
    w->base = address & ~(uint64_t)(WINDOW_PAGE - 1);
    w->end = w->base + (uint64_t)WINDOW_PAGES * WINDOW_PAGE;
    if (w->end > w->limit)
        w->end = w->limit;
    memset(w->there, 0, sizeof w->there);
    w->hint = runs_seek(w->runs, w->hint, w->base);
    for (size_t i = w->hint; i < w->runs->count && w->runs->runs[i].start < w->end; i++) {
        const as_run *r = &w->runs->runs[i];
        if (!(r->flags & AS_PRESENT))
            continue;
        uint64_t start = r->start > w->base ? r->start : w->base, end = r->end < w->end ? r->end : w->end;
        if (w->source->pid >= 0)
            pieces[count++] = (struct iovec){(void *)(uintptr_t)start, end - start};
        else if (!as_read_present(w->source, start, w->bytes + (start - w->base), end - start))
            memset(w->there + (start - w->base) / WINDOW_PAGE, 1, (end - start) / WINDOW_PAGE);
    }
    return count ? read_pieces(w->source, pieces, count, w->base, w->bytes, w->there) : 0;
}
