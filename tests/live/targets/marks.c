/* Preloaded: at SIGUSR2 marks the anonymous private memory that may be written to with MADV_FREE, but the first page of each
 * mapping and every fourth one, in which runtimes have their headers: those are in use in any program. With MARKS_ONES set, only
 * pages full of 1. No byte changes as long as the kernel needs no memory. Prints nothing, allocates nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, HEADERS_APART = 4 * PAGE };

static char maps[1 << 20];

/* The program's own, as gives_back.c fills them, and so none with anybody's headers. */
static int is_full_of_ones(unsigned long page)
{
    const unsigned char *bytes = (const unsigned char *)page;
    int i = 0;
    while (i < PAGE && bytes[i] == 1)
        i++;
    return i == PAGE;
}

static void mark(int number)
{
    (void)number;
    const int only_ones = getenv("MARKS_ONES") != NULL;
    int file = open("/proc/self/maps", O_RDONLY);
    size_t size = 0;
    for (ssize_t got; size < sizeof maps - 1 && (got = read(file, maps + size, sizeof maps - 1 - size)) > 0;)
        size += (size_t)got;
    close(file);
    for (char *line = maps, *end; (end = strchr(line, '\n')); line = end + 1) {
        char *rest;
        unsigned long from = strtoul(line, &rest, 16), to = strtoul(rest + 1, &rest, 16);
        *end = 0;
        int named = strchr(rest, '/') || strchr(rest, '[');
        if (!strncmp(rest + 1, "rw-p", 4) && (!named || strstr(rest, "[heap]")))
            for (unsigned long page = from + PAGE; page < to; page += PAGE)
                if (page % HEADERS_APART && (!only_ones || is_full_of_ones(page)))
                    syscall(SYS_madvise, page, PAGE, MADV_FREE);
    }
}

__attribute__((constructor)) static void wait_for_signal(void)
{
    const struct sigaction action = {.sa_handler = mark, .sa_flags = SA_RESTART};
    sigaction(SIGUSR2, &action, NULL);
}
