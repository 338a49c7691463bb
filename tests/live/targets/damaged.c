/* A program that damages its own heap in one way, says where and how, and waits.

   damaged KIND [thread]: in the main arena, or in the arena of a thread. One JSON line: the address of the word that
   was overwritten, what stood there, what stands there now. EOF ends it by _exit: nothing may call malloc any more. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { COUNT = 64, SMALL = 100, LARGE = 2000, GARBAGE = 0x41 };

static const char *kind;
static uintptr_t outside[4];

/* The words of a chunk, by the pointer that malloc returned. */
#define PREV_SIZE(p) ((uintptr_t *)(p) - 2)
#define SIZE(p) ((uintptr_t *)(p) - 1)
#define FD(p) ((uintptr_t *)(p))
#define BK(p) ((uintptr_t *)(p) + 1)
#define CHUNK(p) ((uintptr_t)((uintptr_t *)(p) - 2))

static void say(uintptr_t *word, uintptr_t value)
{
    char line[200];
    uintptr_t expected = *word;
    *word = value;
    int length = snprintf(line, sizeof line, "{\"pid\": %d, \"address\": %llu, \"expected\": %llu, \"found\": %llu}\n",
                          getpid(), (unsigned long long)(uintptr_t)word, (unsigned long long)expected,
                          (unsigned long long)value);
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

/* Blocks with live ones between them, so that none merge; every fourth is freed by the caller. */
static void fill(void *volatile *blocks, size_t size)
{
    for (size_t i = 0; i < COUNT; i++)
        blocks[i] = malloc(size);
}

static void damage(void)
{
    void *volatile blocks[COUNT]; /* volatile: what is done to freed ones is on purpose */
    uintptr_t garbage;
    memset(&garbage, GARBAGE, sizeof garbage);
    fill(blocks, strcmp(kind, "tcache") ? LARGE : SMALL);
    if (!strcmp(kind, "size")) { /* as strcpy beyond the end of the block before would */
        free(blocks[COUNT - 4]);
        say(SIZE(blocks[8]), garbage);
    } else if (!strcmp(kind, "cycle")) { /* two chunks of the unsorted bin that know only each other */
        free(blocks[8]);
        free(blocks[16]);
        *FD(blocks[8]) = CHUNK(blocks[16]);
        say(BK(blocks[16]), CHUNK(blocks[8]));
    } else if (!strcmp(kind, "tcache")) { /* a use after free: the link, which glibc mangles, leads out */
        free(blocks[8]);
        free(blocks[16]);
        say(FD(blocks[16]), ((uintptr_t)blocks[16] >> 12) ^ (uintptr_t)outside);
    } else if (!strcmp(kind, "footer")) {
        free(blocks[8]);
        say(PREV_SIZE(blocks[9]), garbage);
    } else if (!strcmp(kind, "top")) {
        char *last = malloc(LARGE);
        say((uintptr_t *)(last + malloc_usable_size(last)), garbage);
    } else {
        _exit(2);
    }
}

static void *damage_and_stay(void *unused)
{
    (void)unused;
    damage();
    for (;;)
        pause();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    char byte;
    if (argc < 2)
        return 2;
    kind = argv[1];
    if (argc == 2)
        damage();
    else if (pthread_create(&thread, NULL, damage_and_stay, NULL))
        return 4;
    while (read(0, &byte, 1) == 1)
        ;
    _exit(0);
}
