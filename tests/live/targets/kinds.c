/* One kind of memory at a time, SIZE bytes of it, made when the first line comes. Says ready before and made after;
 * ends at EOF.
 *
 * usage: kinds KIND DIRECTORY, where DIRECTORY is on a disk. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 6 << 20, PAGE = 4096, HUGE = 2 << 20, CHUNK = 100000 };
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static int child, volatile_sum;

static void check(int failed, const char *what)
{
    if (failed) {
        perror(what);
        exit(1);
    }
}

static char *map(int flags, int file)
{
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, file, 0);
    check(memory == MAP_FAILED, "mmap");
    madvise(memory, SIZE, MADV_NOHUGEPAGE);
    return memory;
}

static char *anonymous(void)
{
    return map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void write_all(char *memory)
{
    memset(memory, 0x5a, SIZE);
}

static void read_all(const volatile char *memory)
{
    for (size_t i = 0; i < SIZE; i += PAGE)
        volatile_sum += memory[i];
}

/* A file of SIZE bytes that has no name any more, written back to its disk. */
static int file_in(const char *directory)
{
    char name[4096], zeros[PAGE] = {0};
    snprintf(name, sizeof name, "%s/allocscope-kinds-XXXXXX", directory);
    int file = mkstemp(name);
    check(file < 0, name);
    unlink(name);
    for (size_t i = 0; i < SIZE; i += PAGE)
        check(write(file, zeros, PAGE) != PAGE, "write");
    check(fsync(file), "fsync");
    return file;
}

static void on_the_stack(void)
{
    char deep[SIZE];
    write_all(deep);
    volatile_sum += deep[SIZE / 2];
}

static void on_the_heap(void)
{
    for (size_t made = 0; made < SIZE; made += CHUNK) {
        char *chunk = malloc(CHUNK);
        check(!chunk, "malloc");
        memset(chunk, 0x5a, CHUNK);
    }
}

static void shared_with_a_child(void)
{
    write_all(anonymous());
    child = fork();
    check(child < 0, "fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
}

/* What waits in a batch of another processor, on its way to the kernel's lists, no advice reaches: so all on one. */
static void advised(char *memory, int advice)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    check(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    write_all(memory);
    check(madvise(memory, SIZE, advice), "madvise");
    check(madvise(memory, SIZE, advice), "madvise"); /* marked pages wait in a batch until the next call */
}

static void huge(void)
{
    char *memory = mmap(NULL, SIZE + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory == MAP_FAILED, "mmap");
    memory += HUGE - (size_t)memory % HUGE;
    check(madvise(memory, SIZE, MADV_HUGEPAGE), "MADV_HUGEPAGE");
    write_all(memory);
}

static void make(const char *kind, const char *directory)
{
    if (!strcmp(kind, "heap"))
        on_the_heap();
    else if (!strcmp(kind, "stack"))
        on_the_stack();
    else if (!strcmp(kind, "file-private-clean"))
        read_all(map(MAP_PRIVATE, file_in(directory)));
    else if (!strcmp(kind, "file-private-dirty"))
        write_all(map(MAP_PRIVATE, file_in(directory)));
    else if (!strcmp(kind, "file-shared-clean"))
        read_all(map(MAP_SHARED, file_in(directory)));
    else if (!strcmp(kind, "file-shared-dirty"))
        write_all(map(MAP_SHARED, file_in(directory)));
    else if (!strcmp(kind, "file-unmapped"))
        file_in(directory);
    else if (!strcmp(kind, "tmpfs-mapped"))
        write_all(map(MAP_SHARED, file_in("/dev/shm")));
    else if (!strcmp(kind, "tmpfs-unmapped"))
        file_in("/dev/shm");
    else if (!strcmp(kind, "shared-anonymous"))
        write_all(map(MAP_SHARED | MAP_ANONYMOUS, -1));
    else if (!strcmp(kind, "cow-after-fork"))
        shared_with_a_child();
    else if (!strcmp(kind, "madv-free"))
        advised(anonymous(), MADV_FREE);
    else if (!strcmp(kind, "madv-dontneed"))
        advised(anonymous(), MADV_DONTNEED);
    else if (!strcmp(kind, "swapped"))
        advised(anonymous(), MADV_PAGEOUT);
    else if (!strcmp(kind, "shared-swapped"))
        advised(map(MAP_SHARED | MAP_ANONYMOUS, -1), MADV_PAGEOUT);
    else if (!strcmp(kind, "huge"))
        huge();
    else if (!strcmp(kind, "mlocked"))
        check(mlock(anonymous(), SIZE), "mlock");
    else if (!strcmp(kind, "untouched"))
        anonymous();
    else if (!strcmp(kind, "read-only-touched"))
        read_all(anonymous());
    else
        exit(2);
}

int main(int argc, char **argv)
{
    int made = 0;
    if (argc != 3)
        return 2;
    puts("ready");
    fflush(stdout);
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
        if (!made++)
            make(argv[1], argv[2]);
        puts("made");
        fflush(stdout);
    }
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return 0;
}
