/* Many small reads at once. Which pages are there is asked for 64 pages at a time, when the first of them is wanted, and remembered for
 * the length of one call: a list of a million elements does not ask a million times, and a few elements far apart do not ask for
 * all that lies between them. */
#ifndef ALLOCSCOPE_BATCH_H
#define ALLOCSCOPE_BATCH_H

#include "source_private.h"

enum { BATCH_GROUPS = 65536, BATCH_GROUP_PAGES = 64 };

/* Which of 64 neighbouring pages are there. */
typedef struct presence_group {
    uint64_t number; /* address / 256 KiB, plus 1; 0: empty */
    uint64_t bits;
} presence_group;

typedef struct batch {
    as_source *source;
    presence_group *groups;
} batch;

int batch_open(batch *b, as_source *source);
void batch_close(batch *b);
/* Reads size bytes at each address to buffer + i * size; ok[i] tells whether all of it was there. */
int batch_read(batch *b, const uint64_t *addresses, size_t count, size_t size, void *buffer, uint8_t *ok);

#endif
