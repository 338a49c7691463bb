/* Many processes: crowd COUNT MIB forks COUNT children that wait, each with MIB of memory shared with the others.
 * Prints "ready"; all end with it, at EOF on standard input. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t bytes = strtoul(argv[2], NULL, 10) << 20;
    char *memory = malloc(bytes);
    if (!memory)
        return 1;
    memset(memory, 1, bytes);
    for (unsigned long left = strtoul(argv[1], NULL, 10); left; left--) {
        int child = fork();
        if (child < 0)
            return 1;
        if (!child) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                pause();
        }
    }
    puts("ready");
    fflush(stdout);
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;)
        ;
    return 0;
}
