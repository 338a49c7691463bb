/* A program that allocates as many blocks as it is told, none without an argument, says so, and waits for the end of stdin.
 * It calls nothing else that could allocate, and compiles with any C library. */
#include <stdlib.h>
#include <unistd.h>

enum { SMALLEST = 100, SIZES = 1000 };

int main(int argc, char **argv)
{
    char byte;
    int count = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 0; i < count; i++) {
        char *volatile block = malloc((size_t)(SMALLEST + i % SIZES));
        if (!block)
            return 1;
        *block = 1;
    }
    if (write(STDOUT_FILENO, "ready\n", 6) != 6)
        return 1;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}
