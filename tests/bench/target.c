/* A process to measure on: many arenas full of chunks, and a thread that notices every stop.
 *
 * target THREADS MIB: each thread fills its share of MIB with chunks of 16 bytes to 8 KiB, frees half of them and parks. One
 * JSON line says ready; then each line on standard input is a command, answered by one JSON line. "watch" starts a thread
 * that reads the clock without end and keeps the longest gap between two readings: the longest time that it stood still;
 * "reset" forgets that gap, "gap" tells it; "map" starts a thread that maps and unmaps a page without end and keeps the longest
 * time that this took ("reset", "gap"), less what it waited for a processor; "fork" forks, reaps the child, and tells
 * how long fork took; "trim" calls malloc_trim and tells how long that took. EOF ends the process.
 *
 * Standard output leads to /dev/null once the process is ready, since the debugger that others measure prints there; the
 * answers go to a duplicate of it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, LINE_BYTES = 64, MEAN_CHUNK = 2064 };

static _Atomic uint64_t longest_gap_ns;
static pthread_barrier_t filled;
static size_t chunks_per_thread;
static int answers;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void keep_longest(uint64_t gap_ns)
{
    if (gap_ns > atomic_load_explicit(&longest_gap_ns, memory_order_relaxed))
        atomic_store_explicit(&longest_gap_ns, gap_ns, memory_order_relaxed);
}

/* For how long this thread has been ready to run without a processor: the second number of its schedstat. */
static uint64_t waited_for_processor_ns(int schedstat)
{
    char text[96] = "";
    unsigned long long ran = 0, waited = 0;
    if (pread(schedstat, text, sizeof text - 1, 0) > 0)
        sscanf(text, "%llu %llu", &ran, &waited);
    return waited;
}

static void *map_and_unmap(void *unused)
{
    (void)unused;
    int schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    for (uint64_t before = waited_for_processor_ns(schedstat);;) {
        uint64_t begin = now_ns();
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(page, 4096);
        uint64_t took = now_ns() - begin, after = waited_for_processor_ns(schedstat);
        if (took > after - before)
            keep_longest(took - (after - before));
        before = after;
    }
    return NULL;
}

static void *spin(void *unused)
{
    (void)unused;
    for (uint64_t last = now_ns();;) {
        uint64_t now = now_ns();
        keep_longest(now - last);
        last = now;
    }
    return NULL;
}

static void *fill(void *number)
{
    unsigned seed = 1 + (unsigned)(uintptr_t)number;
    void **chunks = malloc(chunks_per_thread * sizeof *chunks);
    for (size_t i = 0; chunks && i < chunks_per_thread; i++) {
        size_t size = rand_r(&seed) % 3 ? 16 + (size_t)rand_r(&seed) % 2000 : 16 + (size_t)rand_r(&seed) % 8192;
        chunks[i] = malloc(size);
        if (chunks[i])
            memset(chunks[i], 0x5a, size);
    }
    for (size_t i = 0; chunks && i < chunks_per_thread; i += 2)
        free(chunks[i]);
    pthread_barrier_wait(&filled);
    for (;;)
        pause();
    return NULL;
}

static uint64_t time_of_fork(void)
{
    uint64_t begin = now_ns();
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    uint64_t end = now_ns();
    waitpid(child, NULL, 0);
    return end - begin;
}

static uint64_t time_of_trim(void)
{
    uint64_t begin = now_ns();
    malloc_trim(0);
    return now_ns() - begin;
}

static void answer(const char *name, uint64_t value)
{
    dprintf(answers, "{\"%s\": %llu}\n", name, (unsigned long long)value);
}

/* One byte at a time: a buffered stream would be one more lock and one more chunk to explain. */
static int read_line(char *line)
{
    for (size_t used = 0; used < LINE_BYTES - 1; used++) {
        if (read(0, line + used, 1) != 1)
            return 0;
        if (line[used] == '\n') {
            line[used] = 0;
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    char line[LINE_BYTES];
    unsigned threads = argc == 3 ? (unsigned)atoi(argv[1]) : 0;
    if (threads < 1 || threads > MAX_THREADS)
        return 2;
    chunks_per_thread = ((size_t)atoi(argv[2]) << 20) / threads / MEAN_CHUNK;
    pthread_barrier_init(&filled, NULL, threads + 1);
    for (uintptr_t i = 0; i < threads; i++)
        if (pthread_create(&thread, NULL, fill, (void *)i))
            return 3;
    pthread_barrier_wait(&filled);
    answers = dup(1);
    dup2(open("/dev/null", O_WRONLY), 1);
    answer("ready", (uint64_t)getpid());
    while (read_line(line)) {
        if (!strcmp(line, "watch")) {
            answer("watch", !pthread_create(&thread, NULL, spin, NULL));
        } else if (!strcmp(line, "map")) {
            answer("map", !pthread_create(&thread, NULL, map_and_unmap, NULL));
        } else if (!strcmp(line, "reset")) {
            atomic_store(&longest_gap_ns, 0);
            answer("reset", 1);
        } else if (!strcmp(line, "gap")) {
            answer("gap_ns", atomic_load(&longest_gap_ns));
        } else if (!strcmp(line, "fork")) {
            answer("fork_ns", time_of_fork());
        } else if (!strcmp(line, "trim")) {
            answer("trim_ns", time_of_trim());
        }
    }
    return 0;
}
