/* What source.c and walk.c share. */
#ifndef ALLOCSCOPE_SOURCE_PRIVATE_H
#define ALLOCSCOPE_SOURCE_PRIVATE_H

#include "source.h"

#include <sys/types.h>

struct as_source {
    int pid;  /* -1: spans in memory or in a file */
    int file; /* where spans lie; -1: in memory */
    int pagemap;
    int memory; /* /proc/PID/mem */
    int no_scan, no_guard;
    as_span *spans;
    as_run *runs;
    size_t span_count, run_count;
    struct word_index *words; /* instead of spans; NULL: none */
    struct header_table *headers; /* what as_keep_headers keeps; NULL: nothing */
};

static inline int as_resident(uint64_t flags)
{
    return (flags & AS_PRESENT) && !(flags & (AS_ZERO | AS_HUGETLB));
}

void headers_free(struct header_table *table);

struct iovec;
/* Reads piece after piece to local, each as long as its remote one; how many bytes arrived before the first that failed. -1 and
 * errno when that was none: EFAULT where memory cannot be read, ESRCH when the process is gone.
 *
 * Through /proc/PID/mem, and not process_vm_readv(2): that one pins pages (FOLL_PIN), and since Linux 5.19 the kernel gives the
 * target a copy of its own of a page that it shares since fork before it lets it be pinned (gup_must_unshare in mm/gup.c). */
ssize_t as_peek(as_source *source, const struct iovec *local, const struct iovec *remote, size_t count);

void as_add_residency(const as_run *runs, size_t count, as_residency *out);
/* Reads without asking first whether the pages are there: the caller knows. */
int as_read_present(as_source *source, uint64_t address, void *buffer, size_t size);

#endif
