#define _GNU_SOURCE
#include "thread.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

#ifdef __x86_64__

enum { GET_ROBUST_LIST_32 = 312 }; /* arch/x86/entry/syscalls/syscall_32.tbl */

/* What the call writes, in memory that a 32-bit pointer reaches. */
typedef struct answer {
    uint32_t head, size;
} answer;

static int ask_32(int tid, answer *to)
{
    int result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(GET_ROBUST_LIST_32), "b"(tid), "c"(&to->head), "d"(&to->size)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static int wait_for(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return errno;
    return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : ENOSYS;
}

int as_robust_lists_32(const int *tids, size_t count, uint64_t *heads)
{
    size_t bytes = count * sizeof(answer);
    if (!count)
        return 0;
    answer *answers = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (answers == MAP_FAILED)
        return errno;
    pid_t child = fork();
    if (child == 0) {
        for (size_t i = 0; i < count; i++)
            if (ask_32(tids[i], &answers[i]))
                answers[i].head = 0;
        _exit(0);
    }
    int error = child < 0 ? errno : wait_for(child);
    for (size_t i = 0; !error && i < count; i++)
        heads[i] = answers[i].head;
    munmap(answers, bytes);
    return error;
}

#else

int as_robust_lists_32(const int *tids, size_t count, uint64_t *heads)
{
    (void)tids;
    memset(heads, 0, count * sizeof *heads);
    return ENOSYS;
}

#endif
