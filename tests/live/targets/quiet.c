/* A process that does nothing, with memory in which a careless reader would leave traces.
 *
 * It holds malloc'd pages of every kind: written ones, never touched ones (in the main heap, in a thread's heap, and in chunks
 * with mappings of their own), and some that were only read, which the kernel maps to its one page of zeros. One thread waits
 * in epoll_wait and counts how often it is interrupted. Protocol: one JSON line when ready; for every line on stdin one JSON
 * line of counts; end at EOF. After the first line nothing is allocated any more.
 *
 * untouched: start and size of a range of whole pages in the main heap that nothing has ever touched. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20, GAPS = 40, WRITTEN = 2000, UNTOUCHED = 100000, LINE_BYTES = 200 };

static atomic_long interruptions;
static pthread_barrier_t built;
static char *gaps[GAPS];

static char *allocated(size_t size)
{
    char *block = malloc(size);
    if (!block)
        exit(1);
    return block;
}

/* Chunks that are written alternate with chunks that are never touched; one of the latter is read only. Some are freed, so that
 * there are free chunks whose pages were never touched. */
static void fill(char **untouched)
{
    for (int i = 0; i < GAPS; i++) {
        memset(allocated(WRITTEN), i, WRITTEN);
        untouched[i] = allocated(UNTOUCHED);
    }
    for (int i = 1; i < GAPS; i += 4)
        free(untouched[i]);
    for (size_t i = 0; i < UNTOUCHED; i += PAGE)
        if (((volatile char *)untouched[2])[i] != 0)
            exit(1);
}

static void *waits_in_epoll(void *unused)
{
    static char *own_gaps[GAPS];
    struct epoll_event event;
    int set = epoll_create1(EPOLL_CLOEXEC);
    fill(own_gaps);
    pthread_barrier_wait(&built);
    for (;;)
        if (epoll_wait(set, &event, 1, -1) < 0 && errno == EINTR)
            atomic_fetch_add(&interruptions, 1);
    return unused;
}

static void say(const char *line)
{
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        exit(1);
}

int main(void)
{
    char line[LINE_BYTES];
    pthread_t thread;
    mallopt(M_MMAP_THRESHOLD, MIB);
    fill(gaps);
    char *zeros = calloc(64, MIB), *partly = allocated(16 * MIB);
    if (!zeros)
        return 1;
    memset(partly + MIB, 1, MIB);
    pthread_barrier_init(&built, NULL, 2);
    if (pthread_create(&thread, NULL, waits_in_epoll, NULL))
        return 1;
    pthread_barrier_wait(&built);
    uintptr_t start = ((uintptr_t)gaps[4] + 2 * PAGE) & ~(uintptr_t)(PAGE - 1);
    snprintf(line, sizeof line, "{\"ready\": true, \"untouched\": [%lu, %d]}\n", (unsigned long)start, 16 * PAGE);
    say(line);
    while (read(STDIN_FILENO, line, sizeof line) > 0) {
        snprintf(line, sizeof line, "{\"interruptions\": %ld}\n", interruptions);
        say(line);
    }
    return 0;
}
