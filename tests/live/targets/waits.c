/* A target for tests: builds a little heap, says "ready", and waits for EOF on stdin.
 *
 *   waits                 one thread
 *   waits threads N       N more threads, asleep
 *   waits leaderless      the main thread ends; another one waits in its place
 *   waits spins           never sleeps, until EOF on stdin
 *   waits exec PROGRAM    at the first line on stdin, becomes "PROGRAM"
 *   waits dlopen LIBRARY  with LIBRARY loaded
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wait_for_eof(void)
{
    char piece[64];

    while (read(STDIN_FILENO, piece, sizeof(piece)) > 0)
        ;
}

static void say_ready(void)
{
    if (write(STDOUT_FILENO, "ready\n", 6) != 6)
        exit(1);
}

static void *sleep_forever(void *unused)
{
    while (pause() == -1)
        ;
    return unused;
}

static void *outlive_the_leader(void *leader)
{
    pthread_join(*(pthread_t *)leader, NULL);
    say_ready();
    wait_for_eof();
    exit(0);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    char *block = malloc(1000);
    static pthread_t leader;
    pthread_t thread;

    if (block == NULL)
        return 1;
    memset(block, 1, 1000);
    if (strcmp(mode, "threads") == 0 && argc > 2) {
        for (int i = 0; i < atoi(argv[2]); i++)
            if (pthread_create(&thread, NULL, sleep_forever, NULL) != 0)
                return 1;
    } else if (strcmp(mode, "leaderless") == 0) {
        leader = pthread_self();
        if (pthread_create(&thread, NULL, outlive_the_leader, &leader) != 0)
            return 1;
        pthread_exit(NULL);
    } else if (strcmp(mode, "dlopen") == 0 && argc > 2) {
        if (dlopen(argv[2], RTLD_NOW | RTLD_LOCAL) == NULL)
            return 1;
    }
    say_ready();
    if (strcmp(mode, "spins") == 0) {
        char byte;

        fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
        while (read(STDIN_FILENO, &byte, 1) != 0)
            ;
        return 0;
    }
    if (strcmp(mode, "exec") == 0 && argc > 2) {
        char byte;

        while (read(STDIN_FILENO, &byte, 1) == 1)
            if (byte == '\n')
                execl(argv[2], argv[2], (char *)NULL);
        return 1;
    }
    wait_for_eof();
    free(block);
    return 0;
}
