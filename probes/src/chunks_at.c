/* Which chunks given addresses lie in: headers are followed from the first chunk of a row on. */
#define _GNU_SOURCE
#include "pins.h"
#include "deadline.h"
#include "runs.h"
#include "window.h"

#include <string.h>

enum { SIZE_FLAGS = 7 };

/* The size of the chunk at an address that the window holds; 0: there is no sound header. */
static uint64_t size_at(const window *win, uint64_t chunk, uint64_t limit)
{
    const as_shape shape = win->source->shape;
    const uint64_t header = as_header(shape), offset = chunk - win->base;
    if (!win->there[offset / WINDOW_PAGE] || offset % header)
        return 0;
    uint64_t size = as_word(shape, win->bytes + offset, 1) & ~(uint64_t)SIZE_FLAGS;
    return size < header || size % header || size > limit - chunk ? 0 : size;
}

static int follow(window *win, uint64_t chunk, uint64_t limit, const uint64_t *addresses, size_t count,
                  uint64_t deadline_ns, uint64_t *chunks)
{
    size_t next = 0;
    while (next < count && addresses[next] < chunk)
        next++;
    while (next < count && chunk < limit) {
        if (!window_holds(win, chunk)) {
            if (deadline_passed(deadline_ns))
                return 0;
            int error = window_move(win, chunk);
            if (error)
                return error;
        }
        uint64_t size = size_at(win, chunk, limit);
        if (!size)
            return 0;
        for (; next < count && addresses[next] < chunk + size; next++)
            chunks[next] = chunk;
        chunk += size;
    }
    return 0;
}

int as_chunks_at(as_source *source, uint64_t first, uint64_t limit, const uint64_t *addresses, size_t count, uint64_t deadline_ns,
                 uint64_t *chunks)
{
    memset(chunks, 0, count * sizeof *chunks);
    if (!count || first >= limit)
        return 0;
    run_list runs;
    int error = runs_load(source, first, limit, &runs);
    if (error)
        return error;
    window win;
    error = window_open(&win, source, &runs, limit);
    if (!error)
        error = follow(&win, first, limit, addresses, count, deadline_ns, chunks);
    window_close(&win);
    runs_free(&runs);
    return error;
}
