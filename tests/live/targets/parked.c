/* parked LOW [thread] [early]: frees the upper 40 MiB of a heap, and 7 chunks right below top last of all; LOW chunks of that size, from the
 * heap's beginning, were freed before. In an arena of a thread's own if asked for, and after an early free of a small chunk. Says ready, ends at EOF on stdin. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE = 2000, COUNT = 20000, LIVE = 1000, SMALL = 1000, HIGH = 7, MOST = 64 };
static size_t low_count;
static int early;
static void *low[MOST], *freed[COUNT], *high[HIGH];

static void *touched(size_t size)
{
    void *p = malloc(size);
    if (!p)
        exit(1);
    return memset(p, 1, size);
}

static void *work(void *unused)
{
    char byte;
    if (early)
        free(touched(1));
    for (size_t i = 0; i < low_count; i++)
        low[i] = touched(SMALL);
    for (size_t i = 0; i < LIVE; i++)
        touched(SIZE);
    for (size_t i = 0; i < COUNT; i++)
        freed[i] = touched(SIZE);
    for (size_t i = 0; i < HIGH; i++)
        high[i] = touched(SMALL);
    for (size_t i = 0; i < low_count; i++)
        free(low[i]);
    for (size_t i = 0; i < COUNT; i++)
        free(freed[i]);
    for (size_t i = 0; i < HIGH; i++)
        free(high[i]);
    if (write(1, "ready\n", 6) != 6)
        exit(1);
    while (read(0, &byte, 1) > 0)
        ;
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    low_count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    early = argc > 2 && !strcmp(argv[argc - 1], "early");
    if (low_count > MOST)
        return 2;
    if (argc < 3 || strcmp(argv[2], "thread"))
        work(NULL);
    else if (pthread_create(&thread, NULL, work, NULL) || pthread_join(thread, NULL))
        return 1;
    return 0;
}
