/* A program that uses again what a trim gave back. It holds a large free chunk between two that are in use; "g" on stdin
 * allocates a part of it, writes to all of that, and prints how many minor faults it took meanwhile (getrusage); "f" frees
 * it again and prints 0. EOF ends it. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { FREE = 8 << 20, PART = 1 << 20, KEPT = 64 };

static long faults(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_minflt;
}

int main(void)
{
    static char line[32];
    char byte, *part = NULL;
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    char *volatile block = malloc(FREE), *volatile kept = malloc(KEPT);
    memset(block, 1, FREE);
    *kept = 1;
    free(block);
    if (write(STDOUT_FILENO, "ready\n", 6) != 6)
        return 1;
    while (read(STDIN_FILENO, &byte, 1) == 1) {
        long before = faults();
        if (byte == 'g')
            memset(part = malloc(PART), 1, PART);
        else
            free(part);
        long taken = byte == 'g' ? faults() - before : 0;
        int size = snprintf(line, sizeof line, "%ld\n", taken);
        if (write(STDOUT_FILENO, line, (size_t)size) != size)
            return 1;
    }
    return 0;
}
