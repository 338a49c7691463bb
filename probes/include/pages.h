/* Pages held by MADV_FREE: which they are, and giving exactly those back.
 *
 * Strategy: the frame behind a page tells (/proc/kpageflags): anonymous, but neither backed by swap nor dirty. Frame
 * numbers come from pagemap, a batch at a time; they are sorted, and neighbours are read in one call. The frame of a
 * huge page keeps its flags in its first page.
 *
 * Rules: a page that was written to after MADV_FREE still looks so until the kernel's reclaim comes by, because the
 * dirty bit of the page table is not shown; that is no danger, since reclaim looks at that bit first and keeps the
 * page. What cannot be read is not lazily freed. Facts: Documentation/admin-guide/mm/pagemap.rst; madvise(2),
 * process_madvise(2); mm/vmscan.c. */
#ifndef ALLOCSCOPE_PAGES_H
#define ALLOCSCOPE_PAGES_H

#include "source.h"

/* The lazily freed pages of [start, end): at most cap runs (flags: AS_PRESENT). resume is where to go on, end when all
 * was told. kpageflags: an open /proc/kpageflags. EPERM: pagemap hides frame numbers from us (CAP_SYS_ADMIN in the
 * initial user namespace); EINVAL: not a process. */
int as_lazy_runs(as_source *source, int kpageflags, uint64_t start, uint64_t end, as_run *out, size_t cap,
                 size_t *count, uint64_t *resume);

/* Advises the kernel to take these runs out of memory (process_madvise, MADV_PAGEOUT), up to 1024 in one call. A run
 * that it refuses (locked, or gone: EINVAL, ENOMEM) is passed over; its bytes are the difference. EPERM: needs
 * CAP_SYS_NICE and the right to read the process; ESRCH: it has ended; ENOSYS: Linux 5.10 has it. */
int as_page_out(int pidfd, const as_run *runs, size_t count, uint64_t *advised_bytes);

/* Has every processor finish what it has put off about pages (lru_add_drain_all in mm/swap.c): until then it holds them,
 * and as_page_out, for which the kernel does that on the calling processor only, leaves them where they are. The way
 * there is a move_pages(2) of no page at all, which begins with it. ENOSYS: a kernel without NUMA. */
int as_settle_pages(void);

/* The sum of the states of the pages in all runs. */
int as_residency_in(as_source *source, const as_run *runs, size_t count, as_residency *out);

#endif
