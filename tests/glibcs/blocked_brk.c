/* A main arena that the break no longer serves: something else is mapped right behind it.
 *
 * From then on glibc takes the main arena's memory from mmap, a MiB or more at a time, and nothing lists these regions. Between them
 * the program maps pages of its own, so that they do not all lie side by side. The truth: what the program holds, by its own
 * arithmetic, and mallinfo. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* mallinfo: mallinfo2 came with 2.33 */

enum { COUNT = 6000, BYTES = 900, HEADER = sizeof(size_t), PAGE_BYTES = 4096, WALL_BYTES = 1 << 20 };

static int wall(void *where, int flags)
{
    return mmap(where, WALL_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0) == MAP_FAILED;
}

int main(void)
{
    char line[512], byte;
    static void *volatile held[COUNT];
    size_t live_count = 0, live_bytes = 0;
    for (size_t i = 0; i < COUNT; i++) {
        size_t end = ((size_t)sbrk(0) + PAGE_BYTES - 1) & -(size_t)PAGE_BYTES;
        if (i == COUNT / 6 && wall((void *)end, MAP_FIXED_NOREPLACE))
            return 3;
        if (i > COUNT / 6 && i % (COUNT / 12) == 0 && wall(NULL, 0))
            return 3;
        held[i] = malloc(BYTES + i % 100);
        if (!held[i])
            return 3;
        memset(held[i], 0x5a, BYTES);
    }
    for (size_t i = 0; i < COUNT; i++) {
        if (i % 3 == 1) {
            free(held[i]);
            continue;
        }
        live_count++;
        live_bytes += malloc_usable_size(held[i]) + HEADER;
    }
    struct mallinfo m = mallinfo();
    int length = snprintf(line, sizeof line,
                          "{\"ready\": true, \"pid\": %d, \"truth\": {\"live_count\": %zu, \"live_bytes\": %zu, \"arena\": %d, "
                          "\"fordblks\": %d, \"keepcost\": %d}}\n",
                          getpid(), live_count, live_bytes, m.arena, m.fordblks, m.keepcost);
    if (write(1, line, (size_t)length) != length)
        return 3;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
