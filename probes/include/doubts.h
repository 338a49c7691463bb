/* Chunks in doubt: a walk that does not know beforehand which chunks are in fastbins.
 *
 * Strategy: a chunk in a fastbin looks allocated, and the lists that tell are long ways of dependent reads. So the walk writes down each
 * chunk in use that may be in one (its size is one that a fastbin has, and its mangled link leads to where the arena is), with the free
 * chunks beside it. When all of the arena was walked, the lists are followed among what was written down, and then each such chunk
 * is counted as what it is. The sums are those of a walk that knew.
 *
 * Rules: memory is read once, by the walk; all logs together hold at most AS_DOUBTS_MAX entries (24 bytes each); a list that leads to a
 * chunk that was not written down settles nothing, and neither does a log that is incomplete: then the arena is walked the other way. */
#ifndef ALLOCSCOPE_DOUBTS_H
#define ALLOCSCOPE_DOUBTS_H

#include "walk.h"

enum { AS_DOUBTS_MAX = 1048576 };

/* An empty log, for as_region.doubts of one walk. NULL: no memory. */
as_doubts *as_doubts_open(void);
void as_doubts_close(as_doubts *log);
/* Follows lists from their heads among all logs of an arena; *whole: did each end, in chunks in doubt only, without a circle? To be
 * called once, before as_doubts_settle. */
int as_doubts_follow(as_doubts *const *logs, size_t log_count, const uint64_t *heads, size_t head_count, int *whole);
/* What the chunks in doubt add to the sums of the walks of one row, whose logs these are in ascending order. last_live: the
 * last of those that are live. */
int as_doubts_settle(as_doubts *const *logs, size_t log_count, as_tally *tally, as_class *classes);

#endif
