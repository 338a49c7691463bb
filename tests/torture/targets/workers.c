#define _GNU_SOURCE
#include "workers.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 4096, ROUNDS = 2, PAUSE_MS = 3 };

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void expect(worker *w, int holds)
{
    atomic_fetch_add_explicit(&w->checks, 1, memory_order_relaxed);
    if (!holds)
        atomic_fetch_add(&w->errors, 1);
}

int interrupted(worker *w, long got, int error)
{
    if (got >= 0 || error != EINTR)
        return 0;
    atomic_fetch_add(&w->interruptions, 1);
    expect(w, w->may_be_interrupted);
    return 1;
}

/* By write(2) alone: stdio's buffers would be malloc's. */
static void say(const char *line, int size)
{
    if (write(STDOUT_FILENO, line, (size_t)size) != size)
        _exit(1);
}

static void say_ready(const worker *workers, int count)
{
    char line[LINE_BYTES];
    int size = sprintf(line, "{\"pid\": %d, \"threads\": {\"main\": %ld", getpid(), syscall(SYS_gettid));
    for (int i = 0; i < count; i++)
        size += sprintf(line + size, ", \"%s%d\": %d", workers[i].name, workers[i].number, workers[i].tid);
    size += sprintf(line + size, "}}\n");
    say(line, size);
}

static void say_counts(worker *workers, int count)
{
    char line[LINE_BYTES];
    long checks = 0, errors = 0, rounds = 0, interruptions = 0;
    int size = sprintf(line, "{\"wrong\": [");
    const char *comma = "";
    for (int i = 0; i < count; i++) {
        worker *w = &workers[i];
        checks += w->checks;
        errors += w->errors;
        rounds += w->rounds;
        interruptions += w->interruptions;
        if (w->errors) {
            size += sprintf(line + size, "%s\"%s%d\"", comma, w->name, w->number);
            comma = ", ";
        }
    }
    size += sprintf(line + size, "], \"checks\": %ld, \"errors\": %ld, \"rounds\": %ld, \"interruptions\": %ld}\n", checks, errors,
                    rounds, interruptions);
    say(line, size);
}

/* The mask of the thread is as it was after the first round. */
static void check_mask(worker *w)
{
    static __thread sigset_t first;
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    if (!w->rounds)
        first = now;
    expect(w, !memcmp(&first, &now, 8));
}

static void go_round(worker *w)
{
    w->round(w);
    check_mask(w);
    atomic_fetch_add(&w->rounds, 1);
}

static void *work(void *argument)
{
    worker *w = argument;
    atomic_store(&w->tid, (int)syscall(SYS_gettid));
    for (;;)
        go_round(w);
    return NULL;
}

static void wait_rounds(worker *workers, const long *from, int count)
{
    const struct timespec nap = {0, 500000};
    for (int i = 0; i < count; i++)
        while (workers[i].rounds < from[i] + ROUNDS)
            nanosleep(&nap, NULL);
}

int run_workers(worker *workers, int count)
{
    static char line[LINE_BYTES];
    long from[count];
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, &workers[i]))
            return 1;
    }
    for (int i = 0; i < count; i++)
        while (!workers[i].tid)
            sched_yield();
    say_ready(workers, count);
    while (read(STDIN_FILENO, line, sizeof line) > 0) {
        for (int i = 0; i < count; i++)
            from[i] = workers[i].rounds;
        wait_rounds(workers, from, count);
        say_counts(workers, count);
    }
    return 0;
}

int run_alone(worker *w)
{
    static char line[LINE_BYTES];
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    w->tid = getpid();
    go_round(w); /* malloc is set up, and in use, when others look */
    say_ready(w, 0);
    for (;;) {
        go_round(w);
        errno = 77;
        int got = poll(&input, 1, PAUSE_MS);
        if (interrupted(w, got, errno))
            continue;
        expect(w, errno == 77);
        if (got <= 0)
            continue;
        if (read(STDIN_FILENO, line, sizeof line) <= 0)
            return 0;
        for (int i = 0; i < ROUNDS; i++)
            go_round(w);
        say_counts(w, 1);
    }
}
