/* Pages that the kernel is just moving from one frame to another (compaction, NUMA balancing, huge pages in the making).
 *
 * While it moves, a page has an entry like a swapped one, for microseconds, or for as long as the moving task waits for a CPU.
 * It is resident all the time: smaps counts it as such, and whoever reads it is made to wait until it has arrived. So its state
 * is asked again until it tells. What pagemap shows is the entry's type, and swap devices have the lowest numbers (MAX_SWAPFILES in
 * linux/swap.h: 23 or more, then the kernel's own); without CAP_SYS_ADMIN the type is hidden, and only a machine
 * without any swap lets one conclude. */
#ifndef ALLOCSCOPE_TRANSIT_H
#define ALLOCSCOPE_TRANSIT_H

#include "source.h"

/* The entry of pagemap for page, asked again for as long as it is in transit. Some of the kernel's own types stay for ever (poisoned
 * pages, markers): patience, in all at most source->patience waits, ends that. */
uint64_t as_settled(as_source *source, uint64_t page, uint64_t entry);
/* Waits for the pages of the runs that are in transit; *waited: did one of them change? Then the runs are to be asked for again. */
int as_settle(as_source *source, const as_run *runs, size_t count, int *waited);

#endif
