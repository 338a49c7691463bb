/* Threads that do nothing but allocate, resize, align and free, and check every byte of their own.
 *
 * usage: storm THREADS   (0: one thread alone, in a process where malloc never takes a lock)
 *
 * Each block says what is in it: its size and a byte that fills it. Some blocks are handed from one thread to the next by a
 * table of mailboxes, so that they are freed into another thread's arena. Errors: a byte that is not what was written, a sum
 * of bytes held that does not come back to what the tables say, an address that is not aligned as asked. */
#define _GNU_SOURCE
#include "workers.h"

#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 256, MAILBOXES = 64, MOST_THREADS = 64, STEPS = 400, SMALL = 3000, MEDIUM = 40000, LARGE = 400000 };

typedef struct block {
    size_t size; /* of the whole block */
    uint64_t canary;
    unsigned char filler, bytes[];
} block;

typedef struct table {
    block *slots[SLOTS];
    size_t held_bytes;
    uint64_t seed;
} table;

static worker workers[MOST_THREADS];
static table tables[MOST_THREADS];
static _Atomic(block *) mailboxes[MAILBOXES];
static const uint64_t CANARY = 0x9e3779b97f4a7c15u;

static uint64_t next(table *t)
{
    t->seed = t->seed * 6364136223846793005u + 1442695040888963407u;
    return t->seed >> 24;
}

static void fill(block *b, size_t size, uint64_t random)
{
    b->size = size;
    b->canary = CANARY ^ size;
    b->filler = (unsigned char)random;
    memset(b->bytes, b->filler, size - offsetof(block, bytes));
}

/* The first `bytes` of a block, its head among them. */
static void check(worker *w, const block *b, size_t bytes)
{
    unsigned char wrong = 0;
    expect(w, b->canary == (CANARY ^ b->size));
    for (size_t i = 0; i < bytes - offsetof(block, bytes); i++)
        wrong |= b->bytes[i] ^ b->filler;
    expect(w, !wrong);
}

static size_t some_size(table *t)
{
    uint64_t random = next(t);
    size_t most = random % 64 == 0 ? LARGE : random % 8 == 0 ? MEDIUM : SMALL;
    return sizeof(block) + 1 + (random >> 8) % most;
}

static block *make(worker *w, table *t)
{
    size_t size = some_size(t), alignment = 16;
    block *b;
    if (next(t) % 8 == 0) {
        alignment = (size_t)32 << next(t) % 8;
        b = memalign(alignment, size);
    } else if (next(t) % 8 == 0) {
        b = calloc(1, size);
        for (size_t i = 0; b && i < size; i += 509)
            expect(w, ((unsigned char *)b)[i] == 0);
    } else {
        b = malloc(size);
    }
    if (!b)
        abort();
    expect(w, (uintptr_t)b % alignment == 0 && malloc_usable_size(b) >= size);
    fill(b, size, next(t));
    t->held_bytes += size;
    return b;
}

static void drop(worker *w, table *t, block *b)
{
    check(w, b, b->size);
    t->held_bytes -= b->size;
    free(b);
}

static block *resize(worker *w, table *t, block *b)
{
    size_t before = b->size, after = some_size(t), kept = before < after ? before : after;
    b = realloc(b, after);
    if (!b)
        abort();
    check(w, b, kept);
    t->held_bytes += after - before;
    fill(b, after, next(t));
    return b;
}

static void exchange(worker *w, table *t, int slot)
{
    block *mine = t->slots[slot];
    if (mine)
        t->held_bytes -= mine->size;
    block *other = atomic_exchange(&mailboxes[next(t) % MAILBOXES], mine);
    if (other) {
        check(w, other, other->size);
        t->held_bytes += other->size;
    }
    t->slots[slot] = other;
}

static void round_storm(worker *w)
{
    table *t = &tables[w->number];
    size_t sum = 0;
    for (int i = 0; i < STEPS; i++) {
        int slot = (int)(next(t) % SLOTS), action = (int)(next(t) % 8);
        block **b = &t->slots[slot];
        if (action == 0) {
            exchange(w, t, slot);
        } else if (*b && action == 1) {
            *b = resize(w, t, *b);
        } else {
            if (*b)
                drop(w, t, *b);
            *b = action == 2 ? NULL : make(w, t);
        }
    }
    for (int i = 0; i < SLOTS; i++)
        sum += t->slots[i] ? t->slots[i]->size : 0;
    expect(w, sum == t->held_bytes);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : -1;
    if (threads < 0 || threads > MOST_THREADS)
        return 2;
    for (int i = 0; i < MOST_THREADS; i++) {
        workers[i].name = "storm";
        workers[i].round = round_storm;
        workers[i].number = i;
        tables[i].seed = (uint64_t)i + 1;
    }
    return threads ? run_workers(workers, threads) : run_alone(&workers[0]);
}
