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
    w->own_bytes = malloc((size_t)WINDOW_PAGES * WINDOW_PAGE);
    return w->own_bytes ? 0 : ENOMEM;
}

void window_close(window *w)
{
    free(w->own_bytes);
    w->own_bytes = NULL;
}

static int use_held(window *w)
{
    w->base = w->source->held_start;
    w->end = w->limit < w->source->held_end ? w->limit : w->source->held_end;
    w->bytes = w->source->held;
    w->there = w->source->held_pages;
    return 0;
}

int window_move(window *w, uint64_t address)
{
    struct iovec pieces[WINDOW_PAGES];
    size_t count = 0;
    if (as_holds(w->source, address))
        return use_held(w);
    w->base = address & ~(uint64_t)(WINDOW_PAGE - 1);
    w->end = w->base + (uint64_t)WINDOW_PAGES * WINDOW_PAGE;
    if (w->end > w->limit)
        w->end = w->limit;
    w->bytes = w->own_bytes;
    w->there = w->own_there;
    memset(w->own_there, 0, sizeof w->own_there);
    w->hint = runs_seek(w->runs, w->hint, w->base);
    for (size_t i = w->hint; i < w->runs->count && w->runs->runs[i].start < w->end; i++) {
        const as_run *r = &w->runs->runs[i];
        if (!(r->flags & AS_PRESENT))
            continue;
        uint64_t start = r->start > w->base ? r->start : w->base, end = r->end < w->end ? r->end : w->end;
        if (w->source->pid >= 0)
            pieces[count++] = (struct iovec){(void *)(uintptr_t)start, end - start};
        else if (!as_read_present(w->source, start, w->own_bytes + (start - w->base), end - start))
            memset(w->own_there + (start - w->base) / WINDOW_PAGE, 1, (end - start) / WINDOW_PAGE);
    }
    return count ? as_read_pieces(w->source, pieces, count, w->base, w->own_bytes, w->own_there) : 0;
}
