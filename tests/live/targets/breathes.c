/* Breathes on command. `a N`: allocates N MiB in chunks of 1000 bytes, all written. `f`: frees every
 * second chunk that it has. `r`: frees all and trims. `m N`: allocates one chunk of N MiB, which
 * gets a mapping of its own, and writes it. `t`: starts a thread that allocates 1 MiB from an arena
 * of its own and stays. `x PROGRAM`: executes PROGRAM, which inherits its pipes. Each command is
 * answered with a line when it is done. Ends at EOF. */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WANTED = 1000, MIB = 1 << 20, MOST = 4 << 20 };

static char *kept[MOST];
static size_t kept_count;

static void *written(size_t size)
{
    void *pointer = malloc(size);
    if (!pointer)
        exit(1);
    memset(pointer, 'x', size);
    return pointer;
}

static void allocate(size_t mib)
{
    for (size_t i = 0; i < mib * MIB / WANTED && kept_count < MOST; i++)
        kept[kept_count++] = written(WANTED);
}

static void give_back(size_t step)
{
    for (size_t i = 0; i < kept_count; i += step) {
        free(kept[i]);
        kept[i] = NULL;
    }
}

static void *stay(void *done)
{
    for (size_t i = 0; i < MIB / WANTED; i++)
        written(WANTED);
    pthread_barrier_wait(done);
    for (;;)
        pause();
    return NULL;
}

static void start_thread(void)
{
    pthread_t thread;
    pthread_barrier_t done;
    if (pthread_barrier_init(&done, NULL, 2) || pthread_create(&thread, NULL, stay, &done))
        exit(1);
    pthread_barrier_wait(&done);
    pthread_barrier_destroy(&done);
}

static void become(char *program)
{
    program[strcspn(program, "\n")] = '\0';
    char *const words[] = {program, NULL};
    execv(program, words);
    exit(1);
}

int main(void)
{
    static char line[4096];
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        size_t count = strtoul(line + 1, NULL, 10);
        if (line[0] == 'a') {
            allocate(count);
        } else if (line[0] == 'f') {
            give_back(2);
        } else if (line[0] == 'r') {
            give_back(1);
            kept_count = 0;
            malloc_trim(0);
        } else if (line[0] == 'm') {
            written(count * MIB);
        } else if (line[0] == 't') {
            start_thread();
        } else if (line[0] == 'x') {
            become(line + 2);
        }
        puts("done");
    }
    return 0;
}
