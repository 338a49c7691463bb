/* Free chunks in mlocked memory: malloc_trim's madvise fails there, its brk does not.
 *
 * The main arena gets: a free chunk that is wholly locked, one whose last third is locked, one that is not, each between
 * chunks in use, and behind them a top, locked, that is larger than the pad. A thread's arena gets a free chunk whose first
 * half is locked. "t" on stdin makes it call malloc_trim(0), "u" munlockall(), and it prints what that returned; EOF ends
 * it. */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, BLOCK = 96 << 10, KEPT = 64 };

static void *guard[8];
static int guards;

/* A chunk that is written to and then in use on both sides. */
static char *take(size_t size)
{
    char *volatile block = malloc(size);
    memset(block, 1, size);
    guard[guards] = malloc(KEPT);
    memset(guard[guards++], 1, KEPT);
    return block;
}

static void lock(char *start, char *end)
{
    uintptr_t first = ((uintptr_t)start + PAGE - 1) & ~(uintptr_t)(PAGE - 1), last = (uintptr_t)end & ~(uintptr_t)(PAGE - 1);
    if (mlock((void *)first, last - first))
        abort();
}

static void *of_thread(void *unused)
{
    char *block = take(BLOCK);
    lock(block, block + BLOCK / 2);
    free(block);
    return unused;
}

int main(void)
{
    pthread_t thread;
    char byte;
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    char *whole = take(BLOCK), *part = take(BLOCK), *open = take(BLOCK), *volatile top = malloc(8 * BLOCK);
    memset(top, 1, 8 * BLOCK);
    lock(whole - 32, whole + BLOCK + PAGE);
    lock(part + 2 * (BLOCK / 3), part + BLOCK);
    lock(top, top + 8 * BLOCK);
    free(whole);
    free(part);
    free(open);
    free(top);
    pthread_create(&thread, NULL, of_thread, NULL);
    pthread_join(thread, NULL);
    if (write(STDOUT_FILENO, "ready\n", 6) != 6)
        return 1;
    while (read(STDIN_FILENO, &byte, 1) == 1) {
        int returned = byte == 'u' ? munlockall() : malloc_trim(0);
        char answer[2] = {(char)('0' + returned), '\n'};
        if (write(STDOUT_FILENO, answer, 2) != 2)
            return 1;
    }
    return 0;
}
