/* Starts a program and holds it where its malloc is not ready yet, traced and stopped, until the end of stdin.
 *
 * usage: held entry | libc PROGRAM [ARGUMENT]...
 *   entry  at its first instruction, when not even the loader has run
 *   libc   as soon as the data of libc.so.6 is mapped, before the loader has relocated it
 * Prints the program's pid when it stands there. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_CALLS = 10000, LINE_BYTES = 1000 };

static int has_libc_data(int pid)
{
    char path[64], line[LINE_BYTES];
    int found = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    while (maps && fgets(line, sizeof line, maps))
        found |= strstr(line, " rw-p ") && strstr(line, "/libc.so.6");
    if (maps)
        fclose(maps);
    return found;
}

static void wait_for_stop(int pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        exit(1);
}

int main(int argc, char **argv)
{
    char byte;
    if (argc < 3)
        return 2;
    int pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[2], argv + 2);
        _exit(1);
    }
    wait_for_stop(pid);
    ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL);
    for (int i = 0; !strcmp(argv[1], "libc") && i < MOST_CALLS && !has_libc_data(pid); i++) {
        ptrace(PTRACE_SYSCALL, pid, 0, 0);
        wait_for_stop(pid);
    }
    printf("%d\n", pid);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
