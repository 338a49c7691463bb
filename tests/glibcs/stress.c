/* A random user of malloc that stops and tells the truth about itself.
 *
 * stress SEED THREADS STEPS: threads allocate, resize and free at random through slots that they share (so that one frees
 * what another allocated), some of them end, the others park. Then one JSON line says what is alive, by the program's own
 * arithmetic, and what glibc's mallinfo counts. EOF on standard input ends it.
 *
 * Rules: no stdio stream, so that glibc holds no buffer of its own; nothing is allocated after the counting; every loop is
 * bounded by its arguments; only functions that glibc 2.31 has (old_symbols.h binds their old versions). */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* mallinfo: mallinfo2 came with 2.33 */

enum { SLOTS = 6000, MAX_THREADS = 64, STACK_BYTES = 256 * 1024, HEADER_BYTES = sizeof(size_t), MMAPPED_BIT = 2, PAGE_BYTES = 4096 };

static _Atomic(void *) slots[SLOTS];
static pthread_barrier_t created, worked;
static int parked[2];
static unsigned long seed, thread_count, step_count;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545F4914F6CDD1DULL;
}

static uint64_t below(uint64_t *state, uint64_t bound)
{
    return (next_random(state) >> 11) % bound;
}

/* Sizes of every kind that glibc treats differently: tcache and fastbins, small bins, large bins, mappings of their own. */
static size_t random_size(uint64_t *state)
{
    uint64_t kind = below(state, 1000);
    if (kind < 500)
        return below(state, 160);
    if (kind < 800)
        return 160 + below(state, 900);
    if (kind < 960)
        return 1024 + below(state, 15 * 1024);
    if (kind < 996)
        return 16 * 1024 + below(state, 100 * 1024);
    return 128 * 1024 + below(state, 512 * 1024);
}

static void *allocate(uint64_t *state, void *old)
{
    size_t size = random_size(state);
    switch (below(state, 8)) {
    case 0:
        free(old);
        return calloc(1, size);
    case 1:
        free(old);
        return memalign((size_t)16 << below(state, 9), size);
    case 2:
    case 3: {
        void *moved = realloc(old, size + 1);
        return moved ? moved : old;
    }
    default:
        free(old);
        return malloc(size);
    }
}

static void work(uintptr_t number)
{
    uint64_t random = (seed + 1) * 0x9E3779B97F4A7C15ULL + number * 0xD1B54A32D192ED03ULL, *state = &random;
    for (unsigned long step = 0; step < step_count; step++) {
        size_t slot = below(state, SLOTS);
        void *taken = atomic_exchange(&slots[slot], NULL);
        void *made = NULL;
        if (below(state, 100) < 45)
            free(taken);
        else
            made = allocate(state, taken);
        if (made)
            memset(made, 0x5a, malloc_usable_size(made) < 64 ? malloc_usable_size(made) : 64);
        free(atomic_exchange(&slots[slot], made));
    }
}

static void *thread(void *argument)
{
    uintptr_t number = (uintptr_t)argument;
    char byte;
    pthread_barrier_wait(&created);
    work(number);
    pthread_barrier_wait(&worked);
    if (number % 3 == 2)
        return NULL; /* its tcache goes back, its arena is free for another thread */
    while (read(parked[0], &byte, 1) < 0 && errno == EINTR)
        ;
    return NULL;
}

/* What the program holds. A chunk is what is usable plus its header word. A chunk with a mapping of its own says so in that
 * word, tells in the word before how far it lies from the mapping's start (its lowest bit is a flag), and ends with it. */
struct held {
    size_t live_bytes, live_count, mmapped_bytes, mmapped_count;
};

static struct held count_held(void)
{
    struct held held = {0};
    for (size_t slot = 0; slot < SLOTS; slot++) {
        char *pointer = atomic_load(&slots[slot]);
        if (!pointer)
            continue;
        if (*(size_t *)(pointer - HEADER_BYTES) & MMAPPED_BIT) {
            uintptr_t begin = (uintptr_t)pointer - 2 * HEADER_BYTES;
            uintptr_t end = (uintptr_t)pointer + malloc_usable_size(pointer);
            begin -= *(size_t *)begin & ~(size_t)1;
            held.mmapped_bytes += ((end + PAGE_BYTES - 1) & -(uintptr_t)PAGE_BYTES) - begin;
            held.mmapped_count++;
        } else {
            held.live_bytes += malloc_usable_size(pointer) + HEADER_BYTES;
            held.live_count++;
        }
    }
    return held;
}

static unsigned long number(const char *digits)
{
    unsigned long value = 0;
    for (; *digits >= '0' && *digits <= '9'; digits++)
        value = value * 10 + (unsigned long)(*digits - '0');
    return value;
}

static int say(size_t own_bytes, size_t own_count, size_t foreign_bytes)
{
    char line[1024];
    struct held held = count_held();
    struct mallinfo m = mallinfo();
    int length = snprintf(
        line, sizeof line,
        "{\"ready\": true, \"pid\": %d, \"truth\": {\"live_bytes\": %zu, \"live_count\": %zu, \"mmapped_bytes\": %zu, "
        "\"mmapped_count\": %zu, \"glibc_own_bytes\": %zu, \"glibc_own_count\": %zu, \"foreign_brk_bytes\": %zu, \"mallinfo\": {\"arena\": %d, "
        "\"ordblks\": %d, \"smblks\": %d, \"hblks\": %d, \"hblkhd\": %d, \"fsmblks\": %d, \"uordblks\": %d, "
        "\"fordblks\": %d, \"keepcost\": %d}}}\n",
        getpid(), held.live_bytes, held.live_count, held.mmapped_bytes, held.mmapped_count, own_bytes, own_count,
        foreign_bytes, m.arena, m.ordblks, m.smblks, m.hblks, m.hblkhd, m.fsmblks, m.uordblks, m.fordblks, m.keepcost);
    return write(1, line, (size_t)length) == length ? 0 : 1;
}

int main(int argc, char **argv)
{
    pthread_t threads[MAX_THREADS];
    pthread_attr_t attributes;
    size_t own_bytes = 0, own_count = 0, foreign_bytes = 0;
    char byte;

    if (argc != 4)
        return 2;
    seed = number(argv[1]);
    thread_count = number(argv[2]);
    step_count = number(argv[3]);
    if (thread_count < 1 || thread_count > MAX_THREADS || pipe(parked))
        return 2;
    if (seed % 3 == 1)
        mallopt(M_MXFAST, 160);
    if (seed % 4 == 2)
        mallopt(M_TOP_PAD, 0);
    if (seed % 5 == 3)
        mallopt(M_MMAP_THRESHOLD, 128 * 1024); /* for good: else the first such free raises it */
    pthread_barrier_init(&created, NULL, (unsigned)thread_count + 1);
    pthread_barrier_init(&worked, NULL, (unsigned)thread_count + 1);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);

    /* What glibc takes for itself with each thread, by its own counters: they grow by whole chunks while all others wait. */
    void *volatile first = malloc(24); /* volatile, or the compiler leaves both calls out */
    free(first);
    for (uintptr_t i = 0; i < thread_count; i++) {
        int before = mallinfo().uordblks;
        if (pthread_create(&threads[i], &attributes, thread, (void *)i))
            return 3;
        int taken = mallinfo().uordblks - before;
        own_bytes += (size_t)taken;
        own_count += taken > 0;
    }
    if (seed % 2 == 1) {
        foreign_bytes = 4096 * (1 + seed % 5);
        if (sbrk((intptr_t)foreign_bytes) == (void *)-1)
            return 3;
    }
    pthread_barrier_wait(&created);
    work(thread_count);
    pthread_barrier_wait(&worked);
    for (uintptr_t i = 2; i < thread_count; i += 3)
        pthread_join(threads[i], NULL);
    if (say(own_bytes, own_count, foreign_bytes))
        return 3;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
