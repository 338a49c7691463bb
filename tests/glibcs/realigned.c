/* Mappings of their own for aligned chunks, which are then resized.
 *
 * memalign leaves the header of the whole mapping at its start and writes the chunk's own further on; realloc changes the
 * latter only. What stands at the start is then too long or too short, and neighbouring mappings are joined by the kernel:
 * only the second header tells where one ends. The truth is told as the stress program tells it. */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* mallinfo: mallinfo2 came with 2.33 */

enum { COUNT = 8, WORD = sizeof(size_t), PAGE_BYTES = 4096, ALIGNMENT = 65536 };

static size_t mapping_bytes(const char *pointer)
{
    uintptr_t begin = (uintptr_t)pointer - 2 * WORD;
    uintptr_t end = (uintptr_t)pointer + malloc_usable_size((void *)pointer);
    begin -= *(size_t *)begin & ~(size_t)1;
    return ((end + PAGE_BYTES - 1) & -(uintptr_t)PAGE_BYTES) - begin;
}

int main(void)
{
    char line[512], byte;
    void *volatile held[COUNT];
    size_t mapped = 0;
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    for (size_t i = 0; i < COUNT; i++)
        held[i] = i % 2 ? malloc(200 * 1024 + i) : memalign(ALIGNMENT, 600 * 1024);
    for (size_t i = 0; i < COUNT; i += 2) {
        held[i] = realloc(held[i], i % 4 ? 900 * 1024 : 200 * 1024);
        if (!held[i])
            return 3;
        memset(held[i], 0x5a, 64);
    }
    for (size_t i = 0; i < COUNT; i++)
        mapped += mapping_bytes(held[i]);
    struct mallinfo m = mallinfo();
    int length = snprintf(line, sizeof line,
                          "{\"ready\": true, \"pid\": %d, \"truth\": {\"mmapped_count\": %d, \"mmapped_bytes\": %zu, "
                          "\"hblks\": %d, \"hblkhd\": %d}}\n",
                          getpid(), COUNT, mapped, m.hblks, m.hblkhd);
    if (write(1, line, (size_t)length) != length)
        return 3;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
