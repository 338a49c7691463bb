/* An allocator as `map` must recognise it: slabs of equal size, each with a guard below, all but the last few full, the newest
 * barely begun. Says what it made, then ready; ends at EOF. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { SLABS = 32, FULL = 28, SLAB_BYTES = 1 << 20, PAGE = 4096 };

int main(void)
{
    long written = 0;
    for (int i = 0; i < SLABS; i++) {
        char *guarded = mmap(NULL, SLAB_BYTES + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (guarded == MAP_FAILED || mprotect(guarded + PAGE, SLAB_BYTES, PROT_READ | PROT_WRITE))
            return 1;
        madvise(guarded + PAGE, SLAB_BYTES, MADV_NOHUGEPAGE);
        long fill = i < FULL ? SLAB_BYTES : SLAB_BYTES / 8 * (SLABS - i);
        memset(guarded + PAGE, 1, fill);
        written += fill;
    }
    printf("{\"slabs\": %d, \"slab_bytes\": %d, \"full\": %d, \"written_bytes\": %ld}\nready\n", SLABS, SLAB_BYTES, FULL,
           written);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
