/* A program that wrote beyond a block: the size of a fastbin chunk is wrong, and glibc's malloc_trim aborts when it comes by.
 * It calls nothing of malloc's after that; EOF on stdin ends it. */
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCKS = 64, SIZE = 40, WRONG = 0x61 };

int main(void)
{
    uintptr_t *volatile blocks[BLOCKS];
    char byte;
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = malloc(SIZE);
    for (int i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    blocks[BLOCKS / 2][-1] = WRONG;
    if (write(STDOUT_FILENO, "ready\n", 6) != 6)
        return 1;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    _exit(0);
}
