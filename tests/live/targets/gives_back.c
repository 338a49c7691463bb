/* Allocates, frees three quarters in one row, and then allocates and frees a little whenever a line comes, so that an
 * allocator which gives memory back later gets to do so. Prints a line when ready and after each round; ends at EOF on
 * stdin. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCKS = 512, FREED = BLOCKS / 4 * 3, SIZE = 65536, ROUND = 2000 };

static void *volatile slot; /* keeps the compiler from leaving out a pair of malloc and free */

static void say(const char *line)
{
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        exit(1);
}

int main(void)
{
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(SIZE);
        memset(blocks[i], 1, SIZE);
    }
    for (int i = 0; i < FREED; i++)
        free(blocks[i]);
    say("ready\n");
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
        for (size_t i = 0; i < ROUND; i++) {
            slot = malloc(100 + i % 300);
            free(slot);
        }
        say("done\n");
    }
    return 0;
}
