/* Preloaded: at SIGUSR2 marks all anonymous private memory that may be written to with MADV_FREE: no byte changes as long as
 * the kernel needs no memory. Prints nothing, allocates nothing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char maps[1 << 20];

static void mark(int number)
{
    (void)number;
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
            madvise((void *)from, to - from, MADV_FREE);
    }
}

__attribute__((constructor)) static void wait_for_signal(void)
{
    const struct sigaction action = {.sa_handler = mark, .sa_flags = SA_RESTART};
    sigaction(SIGUSR2, &action, NULL);
}
