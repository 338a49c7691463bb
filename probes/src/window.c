#define _GNU_SOURCE
#include "window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

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

static void mark_there(window *w, uint64_t start, uint64_t end)
{
    memset(w->there + (start - w->base) / WINDOW_PAGE, 1, (end - start) / WINDOW_PAGE);
}

/* Reads the pieces in as few calls as the kernel allows; a piece that went away meanwhile is left out. */
static int read_pieces(window *w, struct iovec *pieces, size_t count)
{
    struct iovec local[WINDOW_PAGES];
    size_t done = 0;
    while (done < count) {
        for (size_t i = done; i < count; i++)
            local[i - done] = (struct iovec){w->bytes + ((uint64_t)(uintptr_t)pieces[i].iov_base - w->base),
                                             pieces[i].iov_len};
        ssize_t got = process_vm_readv(w->source->pid, local, count - done, pieces + done, count - done, 0);
        if (got < 0 && errno != EFAULT)
            return errno;
        while (got > 0 && done < count && (size_t)got >= pieces[done].iov_len) {
            uint64_t start = (uint64_t)(uintptr_t)pieces[done].iov_base;
            mark_there(w, start, start + pieces[done].iov_len);
            got -= (ssize_t)pieces[done].iov_len;
            done++;
        }
        if (done < count) { /* the piece that failed: keep its whole pages that arrived */
            uint64_t start = (uint64_t)(uintptr_t)pieces[done].iov_base;
            if (got > 0)
                mark_there(w, start, start + (uint64_t)got / WINDOW_PAGE * WINDOW_PAGE);
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
        if (w->source->pid < 0) {
            if (!as_read_present(w->source, start, w->bytes + (start - w->base), end - start))
                mark_there(w, start, end);
        } else {
            pieces[count++] = (struct iovec){(void *)(uintptr_t)start, end - start};
        }
    }
    return count ? read_pieces(w, pieces, count) : 0;
}
