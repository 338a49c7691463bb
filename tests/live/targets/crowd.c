/* A process with very much of everything: threads, arenas, mappings, chunks with mappings of their own.

   crowd THREADS MAPPINGS CHUNKS ALIGNED: each thread holds BLOCKS blocks, in an arena of its own where
   MALLOC_ARENA_MAX allows that many, and frees some; the main thread makes MAPPINGS mappings, of which no two
   neighbours are alike, and CHUNKS chunks with mappings of their own, ALIGNED of which are aligned to more than a page.
   Then it prints one JSON line with what it did, and ends at EOF. Chunk sizes are usable sizes plus a word. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCKS = 40, FREED = 4, STACK_BYTES = 64 << 10, PAGE = 4096, LARGE = 132 << 10, ALIGNMENT = 64 << 10 };

static pthread_barrier_t built;
static _Atomic uint64_t live_count, live_bytes;

static void *work(void *number)
{
    void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(24 + 16 * ((uintptr_t)number + i) % 2000);
        live_bytes += malloc_usable_size(blocks[i]) + sizeof(size_t);
    }
    for (size_t i = 0; i < FREED; i++) {
        live_bytes -= malloc_usable_size(blocks[2 * i]) + sizeof(size_t);
        free(blocks[2 * i]);
    }
    live_count += BLOCKS - FREED;
    pthread_barrier_wait(&built);
    for (;;)
        pause();
    return NULL;
}

static void start_threads(uintptr_t count)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_barrier_init(&built, NULL, (unsigned)count + 1);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (uintptr_t i = 0; i < count; i++)
        if (pthread_create(&thread, &attributes, work, (void *)i))
            exit(3);
    pthread_barrier_wait(&built);
}

/* One reservation, of which every other page gets another protection. */
static void make_mappings(size_t count)
{
    char *all = mmap(NULL, (count + 2) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        exit(4);
    for (size_t i = 1; i <= count; i++) {
        all[i * PAGE] = 1;
        if (i % 2 && mprotect(all + i * PAGE, PAGE, PROT_READ))
            exit(5);
    }
}

int main(int argc, char **argv)
{
    unsigned long numbers[4] = {0};
    for (int i = 1; i < argc && i <= 4; i++)
        numbers[i - 1] = strtoul(argv[i], NULL, 10);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_MMAP_MAX, 1 << 20);
    start_threads(numbers[0]);
    make_mappings(numbers[1]);
    for (size_t i = 0; i < numbers[2]; i++) {
        char *chunk = i < numbers[3] ? aligned_alloc(ALIGNMENT, LARGE) : malloc(LARGE);
        if (!chunk)
            return 6;
        chunk[0] = 1;
    }
    struct mallinfo2 sums = mallinfo2();
    printf("{\"pid\": %d, \"live_count\": %llu, \"live_bytes\": %llu, \"mmapped_count\": %zu, \"mmapped_bytes\": %zu, "
           "\"system_bytes\": %zu}\n",
           getpid(), (unsigned long long)live_count, (unsigned long long)live_bytes, sums.hblks, sums.hblkhd, sums.arena);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
