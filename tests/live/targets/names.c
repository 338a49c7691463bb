/* Maps each file that it is given, writes to its first page (of a private copy), uses malloc, prints "ready" and what mallinfo2 says of
 * the arena and of the free bytes. Ends at EOF. */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { COUNT = 2000, BYTES = 700, PAGE_BYTES = 4096 };

int main(int argc, char **argv)
{
    static void *held[COUNT];
    char byte;
    for (int i = 1; i < argc; i++) {
        int file = open(argv[i], O_RDONLY);
        char *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
        if (file < 0 || page == MAP_FAILED || close(file))
            return 1;
        page[0] = 'w';
    }
    for (int i = 0; i < COUNT; i++) {
        held[i] = malloc(BYTES);
        memset(held[i], 'x', BYTES);
    }
    for (int i = 0; i < COUNT; i += 2)
        free(held[i]);
    setvbuf(stdout, NULL, _IONBF, 0);
    struct mallinfo2 says = mallinfo2();
    printf("ready\n%zu %zu\n", says.arena, says.fordblks);
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
