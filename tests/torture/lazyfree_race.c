/* Threads that mark pages with MADV_FREE, write to them again, and look all the time whether each page holds what it
 * must.
 *
 * A page that was written to since it was marked must hold what was written; a marked page may hold that or zeros. A
 * check looks at WORDS words spread over one page. usage: lazyfree_race CHECKS THREADS. Prints "ready"; each thread goes
 * on until it has made its part of the checks and has found a page gone; then one JSON line. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    PAGES = 2048,
    WORDS = 8,
    STEP = PAGE / 8 / WORDS,
    RUN_MOST = 64,
    FREE_EVERY = 64,
    THREADS_MOST = 16
};

struct worker {
    uint64_t checks_wanted, checks, wrong, marked, rewritten, vanished, random;
    uint64_t *area;
    uint64_t stamps[PAGES];
    unsigned char freed[PAGES];
};

static uint64_t next_random(struct worker *me)
{
    me->random ^= me->random << 13;
    me->random ^= me->random >> 7;
    me->random ^= me->random << 17;
    return me->random;
}

static void write_page(struct worker *me, size_t page)
{
    uint64_t *words = me->area + page * (PAGE / 8);
    me->stamps[page] = next_random(me) | 1;
    for (size_t i = 0; i < WORDS; i++)
        words[i * STEP] = me->stamps[page] + 2 * i;
    me->rewritten += me->freed[page];
    me->freed[page] = 0;
}

static void check_page(struct worker *me, size_t page)
{
    const volatile uint64_t *words = me->area + page * (PAGE / 8);
    size_t zeros = 0;
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t word = words[i * STEP];
        zeros += !word;
        if (word != me->stamps[page] + 2 * i && !(me->freed[page] && !word))
            me->wrong++;
    }
    me->vanished += zeros == WORDS;
    me->checks++;
}

static void *work(void *argument)
{
    struct worker *me = argument;
    for (size_t page = 0; page < PAGES; page++)
        write_page(me, page);
    while (me->checks < me->checks_wanted || !me->vanished) {
        size_t page = next_random(me) % PAGES;
        check_page(me, page);
        if (me->freed[page]) {
            write_page(me, page);
            check_page(me, page);
        } else if (next_random(me) % FREE_EVERY == 0) {
            size_t count = 1 + next_random(me) % RUN_MOST;
            if (count > PAGES - page)
                count = PAGES - page;
            if (madvise(me->area + page * (PAGE / 8), count * PAGE, MADV_FREE))
                abort();
            memset(me->freed + page, 1, count);
            me->marked += count;
        }
    }
    for (size_t page = 0; page < PAGES; page++)
        check_page(me, page);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct worker workers[THREADS_MOST];
    pthread_t threads[THREADS_MOST];
    if (argc != 3)
        return 2;
    uint64_t checks = strtoull(argv[1], NULL, 10), count = strtoull(argv[2], NULL, 10);
    if (!count || count > THREADS_MOST)
        return 2;
    puts("ready");
    fflush(stdout);
    for (uint64_t i = 0; i < count; i++) {
        struct worker *me = &workers[i];
        me->checks_wanted = checks / count + 1;
        me->random = 0x9e3779b97f4a7c15u * (i + 1);
        me->area = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (me->area == MAP_FAILED || pthread_create(&threads[i], NULL, work, me))
            return 1;
    }
    struct worker all = {0};
    for (uint64_t i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        all.checks += workers[i].checks;
        all.wrong += workers[i].wrong;
        all.marked += workers[i].marked;
        all.rewritten += workers[i].rewritten;
        all.vanished += workers[i].vanished;
    }
    printf(
        "{\"checks\": %lu, \"wrong\": %lu, \"marked_pages\": %lu, \"rewritten_pages\": %lu, \"vanished_pages\": %lu}\n",
        all.checks, all.wrong, all.marked, all.rewritten, all.vanished);
    fflush(stdout);
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;)
        ;
    return 0;
}
