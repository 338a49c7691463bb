/* A window on a heap's memory: one block read at a time, only pages that are there. */
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
    unsigned char *bytes;
    unsigned char there[WINDOW_PAGES + 1]; /* for each page of it whether it was read, and a 0 behind the last */
} window;

int window_open(window *w, as_source *source, const run_list *runs, uint64_t limit);
void window_close(window *w);
/* Moves the block so that it begins at the page of address, or before. */
int window_move(window *w, uint64_t address);

static inline int window_holds(const window *w, uint64_t address)
{
    return address >= w->base && address < w->end;
}

/* The chunk at an address that the window holds, and whether its links (the third and fourth word) are there too. NULL: it is not there;
 * or, when the window no longer holds the address, its links lie in the next block, and the window is to be moved. */
static inline const unsigned char *window_chunk(window *w, as_shape s, uint64_t address, int *links_there)
{
    uint64_t offset = address - w->base, page = offset / WINDOW_PAGE, size = as_min_chunk(s);
    if (!w->there[page] || offset % as_header(s))
        return NULL;
    *links_there = offset + size <= (page + 1) * WINDOW_PAGE || w->there[page + 1];
    if (!*links_there && address + size < w->limit && page + 1 == WINDOW_PAGES) {
        w->end = address;
        return NULL;
    }
    return w->bytes + offset;
}

#endif
