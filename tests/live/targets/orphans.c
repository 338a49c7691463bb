/* A process with one child that looks like a copy that allocscope makes, or lacks one of its marks. Prints the child's
 * number, ends at EOF on stdin.
 *
 * usage: orphans own | copy | signal | handler | mask | seccomp
 * own: an ordinary zombie; copy: alive, all marks; signal, handler, mask: alive, but with an exit signal, with a
 * handler, with signals that are not blocked; seccomp: a zombie with all marks, below a process that runs under a
 * filter. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void handle(int number)
{
    (void)number;
}

static void block_everything(void)
{
    const uint64_t all = UINT64_MAX;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
}

static int filtered(void)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    int own = !strcmp(kind, "own"), dead = own || !strcmp(kind, "seccomp");
    unsigned long announced = own || !strcmp(kind, "signal") ? SIGCHLD : 0;
    long child = syscall(SYS_clone, announced, NULL, NULL, NULL, NULL);
    if (child < 0)
        return 1;
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!strcmp(kind, "handler"))
            signal(SIGUSR1, handle);
        if (strcmp(kind, "mask"))
            block_everything();
        if (dead)
            _exit(0);
        for (;;)
            pause();
    }
    if (!strcmp(kind, "seccomp") && filtered())
        return 1;
    printf("%ld\n", child);
    fflush(stdout);
    for (char byte; read(STDIN_FILENO, &byte, 1) > 0;)
        ;
    return 0;
}
