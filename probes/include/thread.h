/* What the kernel tells of another process's threads without stopping them. */
#ifndef ALLOCSCOPE_THREAD_H
#define ALLOCSCOPE_THREAD_H

#include <stddef.h>
#include <stdint.h>

/* Where thread tid keeps its robust futex list (get_robust_list): glibc puts it inside the thread's control block, so it
 * leads to the thread's TLS without a stop. 0 when the thread has none. */
int as_robust_list(int tid, uint64_t *head);
/* The same for the threads of a 32-bit program, whose lists the kernel keeps apart and tells only to who asks with the 32-bit system
 * call. A child asks, because a seccomp filter may kill for such a call. ENOSYS: this machine or filter has no such call. */
int as_robust_lists_32(const int *tids, size_t count, uint64_t *heads);

#endif
