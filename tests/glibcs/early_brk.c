/* Takes memory from the break before malloc does, as many bytes as its argument says, and then uses malloc.
 *
 * So the heap does not begin where the break did, nor at a multiple of anything; glibc 2.25 to 2.34 does the same by itself when
 * GLIBC_TUNABLES is set. The truth: where the break stood when malloc was first called, what the program holds, and mallinfo. */
#define _DEFAULT_SOURCE
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* mallinfo: mallinfo2 came with 2.33 */

enum { COUNT = 300, BYTES = 2000, HEADER = sizeof(size_t) };

int main(int argc, char **argv)
{
    char line[512], byte;
    static void *volatile held[COUNT];
    size_t live_count = 0, live_bytes = 0;
    if (argc < 2 || sbrk((intptr_t)strtoul(argv[1], NULL, 10)) == (void *)-1)
        return 3;
    size_t base = (size_t)sbrk(0);
    for (size_t i = 0; i < COUNT; i++) {
        held[i] = malloc(BYTES);
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
                          "{\"ready\": true, \"pid\": %d, \"truth\": {\"base\": %zu, \"live_count\": %zu, \"live_bytes\": %zu, "
                          "\"arena\": %d, \"fordblks\": %d, \"keepcost\": %d}}\n",
                          getpid(), base, live_count, live_bytes, m.arena, m.fordblks, m.keepcost);
    if (write(1, line, (size_t)length) != length)
        return 3;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
