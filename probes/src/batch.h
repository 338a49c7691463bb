/* Many small reads at once. Which pages are there is asked for 2 MiB at a time and remembered for the length of one call, so that
 * a list of a million elements does not ask a million times, and a header in each of 65,000 mappings does not ask for all that lies
 * between them. */
#ifndef ALLOCSCOPE_BATCH_H
#define ALLOCSCOPE_BATCH_H

#include "source_private.h"

enum { BATCH_PIECES = 8192, BATCH_PIECE_PAGES = 512 };

typedef struct presence_piece {
    uint64_t number; /* address / 2 MiB, plus 1; 0: empty */
    unsigned char bits[BATCH_PIECE_PAGES / 8];
} presence_piece;

typedef struct batch {
    as_source *source;
    presence_piece *pieces;
} batch;

int batch_open(batch *b, as_source *source);
void batch_close(batch *b);
/* Reads size bytes at each address to buffer + i * size; ok[i] tells whether all of it was there. */
int batch_read(batch *b, const uint64_t *addresses, size_t count, size_t size, void *buffer, uint8_t *ok);

#endif
