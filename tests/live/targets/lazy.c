/* Memory marked with MADV_FREE in every situation that a reclaim can meet. Prints one JSON line when it is built,
 * answers every line on stdin, ends at EOF.
 *
 * usage: lazy rewritten | locked | forked | huge | holes */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, AREA = 16 << 20, PATTERN = 0xa5 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static unsigned char *area_of(size_t bytes, int advice)
{
    unsigned char *area = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        die("mmap");
    area += HUGE - (size_t)area % HUGE;
    madvise(area, bytes, advice);
    memset(area, PATTERN, bytes);
    return area;
}

/* A processor puts new pages on the kernel's lists a batch at a time, and marks pages of these lists a batch at a time; it
 * finishes its batches at the next madvise there. What still waits at another one is never marked. So all is done on one. */
static void stay_on_one_processor(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof one, &one))
        die("sched_setaffinity");
}

static void mark(void *area, size_t bytes)
{
    if (madvise(area, bytes, MADV_FREE) || madvise(area, bytes, MADV_FREE))
        die("MADV_FREE");
}

static size_t wrong_bytes(const unsigned char *area, size_t bytes)
{
    size_t wrong = 0;
    for (size_t i = 0; i < bytes; i++)
        wrong += area[i] != PATTERN;
    return wrong;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    int huge = !strcmp(kind, "huge"), child = 0;
    stay_on_one_processor();
    unsigned char *area = area_of(AREA, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    size_t marked = AREA / 2, rewritten = 0;
    if (huge) /* the first and the last huge page stay live */
        mark(area + HUGE, marked = AREA - 2 * HUGE);
    else if (!strcmp(kind, "holes")) /* every other page */
        for (size_t i = 0; i < AREA; i += 2 * PAGE)
            mark(area + i, PAGE);
    else
        mark(area, marked);
    if (!strcmp(kind, "rewritten"))
        memset(area, PATTERN, rewritten = AREA / 8);
    if (!strcmp(kind, "locked") && syscall(SYS_mlock2, area, (size_t)AREA, 1 /* MLOCK_ONFAULT */))
        die("mlock2");
    if (!strcmp(kind, "forked") && !(child = fork())) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
    }
    printf("{\"pid\": %d, \"area\": %zu, \"area_bytes\": %d, \"marked_bytes\": %zu, \"rewritten_bytes\": %zu}\n",
           getpid(), (size_t)area, AREA, marked, rewritten);
    fflush(stdout);
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
        size_t wrong = 0;
        if (huge)
            wrong = wrong_bytes(area, HUGE) + wrong_bytes(area + AREA - HUGE, HUGE);
        else if (!strcmp(kind, "holes"))
            for (size_t i = PAGE; i < AREA; i += 2 * PAGE)
                wrong += wrong_bytes(area + i, PAGE);
        else
            wrong = wrong_bytes(area, rewritten) + wrong_bytes(area + marked, AREA - marked);
        printf("{\"wrong_bytes\": %zu}\n", wrong);
        fflush(stdout);
    }
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return 0;
}
