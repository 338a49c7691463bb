/* What the walk tells pins.c, chunk by chunk in ascending order. */
#ifndef ALLOCSCOPE_PINS_PRIVATE_H
#define ALLOCSCOPE_PINS_PRIVATE_H

#include "pins.h"
#include "runs.h"

/* The page that the walk is on: its free bytes, the live chunks that reach into it, and their class. */
typedef struct pin_watch {
    as_pins *pins; /* NULL: nobody asked */
    const run_list *runs;
    size_t hint;
    uint64_t page_size;
    uint64_t free_start; /* where the free row that the walk is in begins; 0: it is in none */
    uint64_t page, free_bytes, live_count;
    int class, parked;
} pin_watch;

void pins_open(pin_watch *watch, as_pins *pins, const run_list *runs, uint64_t page_size);
/* A chunk that stays; kind: AS_HELD_*. */
void pins_held(pin_watch *watch, uint64_t chunk, uint64_t size, int kind);
/* A chunk that malloc_trim would merge with free neighbours. */
void pins_free(pin_watch *watch, uint64_t chunk, uint64_t size);
void pins_close(pin_watch *watch);

#endif
