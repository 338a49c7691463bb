#define _GNU_SOURCE
#include "thread.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

int as_robust_list(int tid, uint64_t *head)
{
    size_t size = 0;
    void *address = NULL;
    if (syscall(SYS_get_robust_list, tid, &address, &size) < 0)
        return errno;
    *head = (uint64_t)(uintptr_t)address;
    return 0;
}
