#define _GNU_SOURCE
#include "pages.h"
#include "source_private.h"
#include "transit.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static const uint64_t PAGE = 4096;
static const uint64_t ENTRY_PRESENT = 1ull << 63, ENTRY_FRAME = (1ull << 55) - 1;
static const uint64_t KPF_DIRTY = 1u << 4, KPF_ANON = 1u << 12, KPF_SWAPBACKED = 1u << 14;
static const uint64_t KPF_COMPOUND_HEAD = 1u << 15, KPF_COMPOUND_TAIL = 1u << 16, KPF_HUGETLB = 1u << 17;

/* INDEX_BITS of an item are its place in the batch, the others its frame. */
enum { INDEX_BITS = 16, BATCH = 1 << INDEX_BITS, GAP = 8, READ_MOST = 4096, BLOCK = 512, IOVECS = 1024 };

/* What is needed for one batch; the arrays live until the call ends. */
struct batch {
    int kpageflags;
    uint64_t entries[BATCH], items[BATCH], flags[READ_MOST], block[BLOCK];
    uint64_t block_start; /* the first frame of block; UINT64_MAX: none */
    unsigned char lazy[BATCH];
};

static size_t read_flags(int kpageflags, uint64_t frame, uint64_t *flags, size_t count)
{
    ssize_t got = pread(kpageflags, flags, count * 8, (off_t)(frame * 8));
    return got < 0 ? 0 : (size_t)got / 8;
}

/* The flags of the first page of the huge page that frame is a part of; 0 where it cannot be found. */
static uint64_t head_flags(struct batch *b, uint64_t frame)
{
    uint64_t start = frame & ~(uint64_t)(BLOCK - 1);
    if (b->block_start != start) {
        b->block_start = read_flags(b->kpageflags, start, b->block, BLOCK) == BLOCK ? start : UINT64_MAX;
        if (b->block_start == UINT64_MAX)
            return 0;
    }
    for (uint64_t i = frame - start + 1; i-- > 0;)
        if (b->block[i] & KPF_COMPOUND_HEAD)
            return b->block[i];
    return 0;
}

static int is_lazy(uint64_t flags)
{
    return (flags & KPF_ANON) && !(flags & (KPF_SWAPBACKED | KPF_DIRTY | KPF_HUGETLB));
}

/* Sets lazy[] for the items, which are sorted by frame. */
static void look_up(struct batch *b, size_t count)
{
    for (size_t first = 0; first < count;) {
        uint64_t low = b->items[first] >> INDEX_BITS;
        size_t last = first;
        while (last + 1 < count) {
            uint64_t next = b->items[last + 1] >> INDEX_BITS;
            if (next - (b->items[last] >> INDEX_BITS) > GAP || next - low >= READ_MOST)
                break;
            last++;
        }
        size_t got = read_flags(b->kpageflags, low, b->flags, (b->items[last] >> INDEX_BITS) - low + 1);
        for (; first <= last; first++) {
            uint64_t frame = b->items[first] >> INDEX_BITS;
            uint64_t flags = frame - low < got ? b->flags[frame - low] : 0;
            if (flags & KPF_COMPOUND_TAIL)
                flags = head_flags(b, frame);
            b->lazy[b->items[first] & (BATCH - 1)] = (unsigned char)is_lazy(flags);
        }
    }
}

/* Fills lazy[] for the pages from start on, at most pages of them; *done is for how many there was an answer. */
static int fill(as_source *source, struct batch *b, uint64_t start, size_t pages, size_t *done)
{
    ssize_t got = pread(source->pagemap, b->entries, pages * 8, (off_t)(start / PAGE * 8));
    if (got < 0)
        return errno;
    size_t present = 0;
    *done = (size_t)got / 8;
    for (size_t i = 0; i < *done; i++) {
        b->lazy[i] = 0;
        b->entries[i] = as_settled(source, start + i * PAGE, b->entries[i]);
        if (!(b->entries[i] & ENTRY_PRESENT))
            continue;
        if (!(b->entries[i] & ENTRY_FRAME))
            return EPERM;
        b->items[present++] = (b->entries[i] & ENTRY_FRAME) << INDEX_BITS | i;
    }
    int error = as_sort(b->items, present);
    if (!error)
        look_up(b, present);
    return error;
}

int as_lazy_runs(as_source *source, int kpageflags, uint64_t start, uint64_t end, as_run *out, size_t cap,
                 size_t *count, uint64_t *resume)
{
    *count = 0;
    *resume = start;
    if (source->pid < 0 || !cap)
        return EINVAL;
    struct batch *b = malloc(sizeof *b);
    if (!b)
        return ENOMEM;
    b->kpageflags = kpageflags;
    b->block_start = UINT64_MAX;
    int error = 0;
    uint64_t at = start & ~(PAGE - 1);
    while (at < end && *count <= cap / 2) { /* one run more than fills the half: enough for this call */
        size_t pages = (end - at + PAGE - 1) / PAGE, most = 2 * (cap - *count), done = 0;
        if (pages > most) /* so many cannot have more runs than there is room for */
            pages = most;
        error = fill(source, b, at, pages < BATCH ? pages : BATCH, &done);
        if (error)
            break;
        if (!done) /* beyond the address space there is nothing */
            at = end;
        for (size_t i = 0; i < done; i++, at += PAGE) {
            if (!b->lazy[i])
                continue;
            if (*count && out[*count - 1].end == at)
                out[*count - 1].end = at + PAGE;
            else
                out[(*count)++] = (as_run){at, at + PAGE, AS_PRESENT};
        }
    }
    *resume = at < end ? at : end;
    free(b);
    return error;
}

int as_page_out(int pidfd, const as_run *runs, size_t count, uint64_t *advised_bytes)
{
    struct iovec pieces[IOVECS];
    *advised_bytes = 0;
    for (size_t first = 0; first < count;) {
        size_t many = count - first < IOVECS ? count - first : IOVECS;
        for (size_t i = 0; i < many; i++) {
            const as_run *run = &runs[first + i];
            pieces[i] = (struct iovec){(void *)(uintptr_t)run->start, run->end - run->start};
        }
        ssize_t advised = syscall(SYS_process_madvise, pidfd, pieces, many, MADV_PAGEOUT, 0);
        if (advised < 0 && errno == EINTR)
            continue;
        if (advised < 0 && errno != EINVAL && errno != ENOMEM)
            return errno;
        uint64_t left = advised < 0 ? 0 : (uint64_t)advised;
        size_t taken = 0;
        *advised_bytes += left;
        while (taken < many && left >= pieces[taken].iov_len)
            left -= pieces[taken++].iov_len;
        first += taken ? taken : 1; /* where not even the first was taken, it is passed over */
    }
    return 0;
}

int as_settle_pages(void)
{
    const int nowhere = 0;
    int status;
    return syscall(SYS_move_pages, 0, 0ul, NULL, &nowhere, &status, 0) < 0 ? errno : 0;
}

int as_residency_in(as_source *source, const as_run *runs, size_t count, as_residency *out)
{
    *out = (as_residency){0};
    for (size_t i = 0; i < count; i++) {
        as_residency one;
        int error = as_residency_of(source, runs[i].start, runs[i].end, &one);
        if (error)
            return error;
        out->resident_bytes += one.resident_bytes;
        out->swapped_bytes += one.swapped_bytes;
        out->huge_bytes += one.huge_bytes;
        out->zero_bytes += one.zero_bytes;
    }
    return 0;
}
