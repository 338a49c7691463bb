#include "pins_private.h"

enum { NO_CLASS = -1, SEVERAL = -2 };

void pins_open(pin_watch *watch, as_pins *pins, const run_list *runs, uint64_t page_size)
{
    *watch = (pin_watch){.pins = pins, .runs = runs, .page_size = page_size, .class = NO_CLASS};
}

/* The page looked at is complete: its free bytes are held by the chunks on it that stay, if any. */
static void page_close(pin_watch *w)
{
    as_pins *p = w->pins;
    int held = w->class != NO_CLASS || w->parked;
    if (w->free_bytes && held && runs_resident(w->runs, &w->hint, w->page, w->page + w->page_size)) {
        if (w->class == NO_CLASS) {
            p->parked_bytes += w->free_bytes;
        } else if (w->class == SEVERAL) {
            p->mixed_bytes += w->free_bytes;
        } else {
            p->pinned_bytes[w->class] += w->free_bytes;
            p->pinning_count[w->class] += w->live_count;
        }
    }
    w->free_bytes = w->live_count = 0;
    w->class = NO_CLASS;
    w->parked = 0;
}

static void page_at(pin_watch *w, uint64_t address)
{
    uint64_t page = address & ~(w->page_size - 1);
    if (page != w->page) {
        page_close(w);
        w->page = page;
    }
}

static void page_holds(pin_watch *w, uint64_t size, int kind)
{
    if (kind != AS_HELD_LIVE) {
        w->parked = 1;
        return;
    }
    int class = (int)as_class_of(size);
    w->class = w->class == NO_CLASS || w->class == class ? class : SEVERAL;
    w->live_count++;
}

void pins_held(pin_watch *w, uint64_t chunk, uint64_t size, int kind)
{
    as_pins *p = w->pins;
    if (!p->last || w->free_start) {
        p->run_start = chunk;
        p->run_count = 0;
        p->below_start = w->free_start ? w->free_start : chunk;
    }
    w->free_start = 0;
    p->last = chunk;
    p->last_size = size;
    p->last_kind = (uint64_t)kind;
    p->run_count++;
    page_at(w, chunk);
    page_holds(w, size, kind);
    if (w->page != ((chunk + size - 1) & ~(w->page_size - 1))) {
        page_at(w, chunk + size - 1);
        page_holds(w, size, kind);
    }
}

void pins_free(pin_watch *w, uint64_t chunk, uint64_t size)
{
    uint64_t end = chunk + size;
    if (!w->free_start)
        w->free_start = chunk;
    page_at(w, chunk);
    uint64_t page_end = w->page + w->page_size;
    if (end <= page_end) {
        w->free_bytes += size;
        return;
    }
    w->free_bytes += page_end - chunk;
    page_at(w, end - 1);
    w->free_bytes += end - w->page;
}

void pins_close(pin_watch *w)
{
    page_close(w);
}
