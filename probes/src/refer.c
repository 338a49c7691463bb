#define _GNU_SOURCE
#include "refer.h"
#include "deadline.h"
#include "runs.h"
#include "window.h"

#include <errno.h>
#include <string.h>

typedef struct search {
    const as_target *targets;
    size_t target_count, most;
    as_reference *out;
    size_t *count;
    uint64_t *totals;
    uint64_t low, span; /* every target lies in [low, low + span) */
} search;

/* The target that value points into; target_count: none. */
static size_t target_of(const search *s, uint64_t value)
{
    size_t low = 0, high = s->target_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->targets[middle].end <= value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->target_count && s->targets[low].start <= value ? low : s->target_count;
}

static void note(search *s, uint64_t where, uint64_t value)
{
    size_t target = target_of(s, value);
    if (target == s->target_count)
        return;
    if (s->totals[target]++ < s->most)
        s->out[(*s->count)++] = (as_reference){where, value, target};
}

static void scan_page(search *s, as_shape shape, uint64_t address, const unsigned char *bytes)
{
    const size_t count = WINDOW_PAGE / shape.word;
    for (size_t i = 0; i < count; i++) {
        uint64_t value = as_word(shape, bytes, i);
        if (value - s->low < s->span)
            note(s, address + i * shape.word, value);
    }
}

static int scan(search *s, window *win, uint64_t start, uint64_t end, uint64_t deadline_ns, uint64_t *scanned_bytes,
                uint64_t *done)
{
    for (*done = start; *done < end; *done = win->end) {
        if (deadline_passed(deadline_ns))
            return 0;
        int error = window_move(win, *done);
        if (error)
            return error;
        for (uint64_t page = 0; win->base + page * WINDOW_PAGE < win->end; page++) {
            if (!win->there[page])
                continue;
            scan_page(s, win->source->shape, win->base + page * WINDOW_PAGE, win->bytes + page * WINDOW_PAGE);
            *scanned_bytes += WINDOW_PAGE;
        }
    }
    return 0;
}

int as_references(as_source *source, uint64_t start, uint64_t end, const as_target *targets, size_t target_count, size_t most,
                  uint64_t deadline_ns, as_reference *out, size_t *count, uint64_t *totals, uint64_t *scanned_bytes,
                  uint64_t *done)
{
    *done = end;
    if (!target_count || start >= end)
        return 0;
    uint64_t low = targets[0].start;
    search s = {targets, target_count, most, out, count, totals, low, targets[target_count - 1].end - low};
    run_list runs;
    int error = runs_load(source, start, end, &runs);
    if (error)
        return error;
    window win;
    error = window_open(&win, source, &runs, end);
    if (!error)
        error = scan(&s, &win, start & ~(uint64_t)(WINDOW_PAGE - 1), end, deadline_ns, scanned_bytes, done);
    window_close(&win);
    runs_free(&runs);
    return error;
}
