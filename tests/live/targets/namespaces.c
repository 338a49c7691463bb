/* Two C libraries in one process: the program's own, and a second copy in a namespace of its own (dlmopen). Both mallocs are used; main
 * prints "ready", then a line with what each library's own mallinfo2 says: arena and hblkhd, the program's first. Ends at EOF. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 3000, SMALL_BYTES = 500, LARGE = 3, LARGE_BYTES = 1 << 20 };

static void use(void *(*allocate)(size_t), int times)
{
    for (int i = 0; i < SMALL * times; i++)
        memset(allocate(SMALL_BYTES), 'x', SMALL_BYTES);
    for (int i = 0; i < LARGE * times; i++)
        memset(allocate(LARGE_BYTES * times), 'x', LARGE_BYTES * times);
}

int main(void)
{
    void *library = dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    void *(*allocate)(size_t);
    struct mallinfo2 (*told)(void);
    *(void **)&allocate = dlsym(library, "malloc");
    *(void **)&told = dlsym(library, "mallinfo2");
    use(malloc, 1);
    use(allocate, 2);
    setvbuf(stdout, NULL, _IONBF, 0);
    struct mallinfo2 ours = mallinfo2(), theirs = told();
    printf("ready\n%zu %zu %zu %zu\n", ours.arena, ours.hblkhd, theirs.arena, theirs.hblkhd);
    while (getchar() != EOF)
        ;
    return 0;
}
