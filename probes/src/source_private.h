/* What source.c and walk.c share. */
#ifndef ALLOCSCOPE_SOURCE_PRIVATE_H
#define ALLOCSCOPE_SOURCE_PRIVATE_H

#include "source.h"

#include <string.h>
#include <sys/types.h>

/* How words and chunks lie, in bytes: glibc's SIZE_SZ and MALLOC_ALIGNMENT, from which its CHUNK_HDR_SZ and MINSIZE
 * follow. */
typedef struct as_shape {
    uint64_t word, alignment, page;
} as_shape;

static const as_shape AS_SHAPE_64 = {8, 16, 4096};

static inline uint64_t as_word(as_shape s, const unsigned char *bytes, size_t index)
{
    uint64_t wide;
    uint32_t narrow;
    if (s.word == sizeof wide) {
        memcpy(&wide, bytes + index * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, bytes + index * sizeof narrow, sizeof narrow);
    return narrow;
}

/* Of a chunk; two words. Also the size of a fencepost. */
static inline uint64_t as_header(as_shape s)
{
    return 2 * s.word;
}

static inline uint64_t as_min_chunk(as_shape s)
{
    return 4 * s.word;
}

/* sizeof(struct malloc_chunk). */
static inline uint64_t as_chunk_struct(as_shape s)
{
    return 6 * s.word;
}

/* What lies between the end of the last chunk that fits and the end of its page. */
static inline uint64_t as_slack(as_shape s)
{
    return s.alignment > as_header(s) ? s.alignment - as_header(s) : 0;
}

/* Can a chunk begin here? */
static inline int as_is_chunk(as_shape s, uint64_t address)
{
    return (address + as_header(s)) % s.alignment == 0;
}

struct as_source {
    int pid;  /* -1: spans in memory or in a file */
    int file; /* where spans lie; -1: in memory */
    int pagemap;
    int memory; /* /proc/PID/mem */
    int no_scan, no_guard;
    int no_swap;       /* this machine has none */
    uint64_t patience; /* see transit.h */
    as_shape shape;
    uint64_t state_page; /* what page states are told of: the pages of this machine */
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
