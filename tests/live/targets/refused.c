/* Processes of which no snapshot may be made. Prints a line when ready, ends at EOF on stdin.
 *
 * usage: refused seccomp | dispatch | vfork | namespace | zombie */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static char let_through; /* 0: SYSCALL_DISPATCH_FILTER_ALLOW */

static int allow_everything(void)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void say_ready(int pid)
{
    char line[32];
    int size = snprintf(line, sizeof line, "%d\n", pid);
    if (write(STDOUT_FILENO, line, (size_t)size) != size)
        _exit(1);
}

static void wait_for_end(void)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "";
    if (!strcmp(kind, "seccomp") && allow_everything())
        return 1;
    if (!strcmp(kind, "dispatch") && prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &let_through))
        return 1;
    if (!strcmp(kind, "namespace") && unshare(CLONE_NEWPID))
        return 1;
    if (!strcmp(kind, "vfork")) {
        int self = getpid();
        if (vfork() == 0) { /* the parent stands still until this child is gone */
            say_ready(self);
            wait_for_end();
            _exit(0);
        }
        return 0;
    }
    if (!strcmp(kind, "zombie")) {
        siginfo_t info;
        int child = fork();
        if (child == 0)
            _exit(0);
        if (waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT)) /* it has ended, and stays */
            return 1;
        say_ready(child);
    } else {
        say_ready(getpid());
    }
    wait_for_end();
    return 0;
}
