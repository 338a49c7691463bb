/* A window on a heap's memory: one block read at a time, only pages that are there; or all of what is held, where it is held. */
#ifndef ALLOCSCOPE_WINDOW_H
#define ALLOCSCOPE_WINDOW_H

#include "runs.h"

enum { WINDOW_PAGES = 256, WINDOW_PAGE = 4096 };

typedef struct window {
    as_source *source;
    const run_list *runs;
    size_t hint;
    uint64_t base, end; /* the block now looked at; empty at first */
    uint64_t limit;
    const unsigned char *bytes;
    const unsigned char *there; /* for each page of it whether it was read, and a 0 behind the last */
    unsigned char *own_bytes;
    unsigned char own_there[WINDOW_PAGES + 1];
} window;

int window_open(window *w, as_source *source, const run_list *runs, uint64_t limit);
void window_close(window *w);
/* Moves the block so that it begins at the page of address, or before. */
int window_move(window *w, uint64_t address);

static inline int window_holds(const window *w, uint64_t address)
{
    return address >= w->base && address < w->end;
}

#endif
