/* What the page cache holds of a file. */
#ifndef ALLOCSCOPE_CACHED_H
#define ALLOCSCOPE_CACHED_H

#include <stdint.h>

/* Pages of the open file fd that are in the page cache, and those of them that are to be written to disk yet (dirty, or being
 * written). ENOSYS: no cachestat(2) here (Linux 6.5); EPERM: the file is neither ours nor writable for us; EOPNOTSUPP: hugetlbfs. */
int as_cached_pages(int fd, uint64_t *pages, uint64_t *dirty_pages);

#endif
