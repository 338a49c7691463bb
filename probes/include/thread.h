/* What the kernel tells of another process's threads without stopping them. */
#ifndef ALLOCSCOPE_THREAD_H
#define ALLOCSCOPE_THREAD_H

#include <stddef.h>
#include <stdint.h>

/* Where thread tid keeps its robust futex list (get_robust_list): glibc puts it inside the thread's control block, so it
 * leads to the thread's TLS without a stop. 0 when the thread has none. */
int as_robust_list(int tid, uint64_t *head);

#endif
