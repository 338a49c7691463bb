/* Threads that live in system calls and signal handlers, and check what each call returns.
 *
 * Each waits in one kind of call, with a result that it knows: a time that has passed, a byte of a sequence, a signal, the
 * status of a child. errno must stay 77 where the call succeeds. Handlers run on the thread's own stack and on an alternate
 * one; they allocate and wait themselves. */
#define _GNU_SOURCE
#include "workers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 77, MS = 1000000, STATUS = 7, ALTERNATE_BYTES = 1 << 16 };
/* A clock may be read a little before the kernel reads it. */
enum { TOLERANCE_NS = 500000 };

static int sequence[2], echo[2];
static worker workers[];
enum { NANOSLEEP, CLOCK_NANOSLEEP, POLL, PPOLL, EPOLL, SIGWAIT, FUTEX, READ, ECHO, HANDLER, ALTERNATE, SENDER, VFORK, EXEC, COUNT };

static void expect_passed(worker *w, uint64_t begin, uint64_t ns)
{
    expect(w, now_ns() - begin + TOLERANCE_NS >= ns);
}

static void round_nanosleep(worker *w)
{
    const struct timespec span = {0, 4 * MS};
    uint64_t begin = now_ns();
    errno = KEPT;
    long got = nanosleep(&span, NULL);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == 0 && errno == KEPT);
    expect_passed(w, begin, 4 * MS);
}

static void round_clock_nanosleep(worker *w)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 3 * MS;
    if (until.tv_nsec >= 1000 * MS) {
        until.tv_nsec -= 1000 * MS;
        until.tv_sec++;
    }
    errno = KEPT;
    int got = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    expect(w, got == 0 && errno == KEPT);
}

static void round_poll(worker *w)
{
    uint64_t begin = now_ns();
    errno = KEPT;
    long got = poll(NULL, 0, 3);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == 0 && errno == KEPT);
    expect_passed(w, begin, 3 * MS);
}

static void round_ppoll(worker *w)
{
    const struct timespec span = {0, 3 * MS};
    uint64_t begin = now_ns();
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    errno = KEPT;
    long got = ppoll(NULL, 0, &span, &mask);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == 0 && errno == KEPT);
    expect_passed(w, begin, 3 * MS);
}

static void round_epoll(worker *w)
{
    static int set = -1;
    struct epoll_event event;
    if (set < 0)
        set = epoll_create1(EPOLL_CLOEXEC);
    uint64_t begin = now_ns();
    errno = KEPT;
    long got = epoll_wait(set, &event, 1, 3);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == 0 && errno == KEPT);
    expect_passed(w, begin, 3 * MS);
}

static void round_sigwait(worker *w)
{
    const struct timespec span = {0, 20 * MS};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    errno = KEPT;
    long got = sigtimedwait(&set, NULL, &span);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == SIGUSR1 ? errno == KEPT : errno == EAGAIN);
}

static void round_futex(worker *w)
{
    static uint32_t word;
    const struct timespec span = {0, 3 * MS};
    uint64_t begin = now_ns();
    errno = KEPT;
    long got = syscall(SYS_futex, &word, 128 /* FUTEX_WAIT_PRIVATE */, 0, &span, NULL, 0);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == -1 && errno == ETIMEDOUT);
    expect_passed(w, begin, 3 * MS);
}

static void round_read(worker *w)
{
    static uint64_t expected;
    uint64_t got = 0;
    errno = KEPT;
    long size = read(sequence[0], &got, sizeof got);
    if (interrupted(w, size, errno))
        return;
    expect(w, size == sizeof got && errno == KEPT && got == expected);
    expected++;
    expect(w, write(echo[1], &got, sizeof got) == sizeof got);
}

static void round_echo(worker *w)
{
    static uint64_t number;
    uint64_t got = 0;
    expect(w, write(sequence[1], &number, sizeof number) == sizeof number);
    errno = KEPT;
    long size;
    while (interrupted(w, size = read(echo[0], &got, sizeof got), errno))
        ;
    expect(w, size == sizeof got && errno == KEPT && got == number);
    number++;
}

/* It allocates, and is then a thread that waits on top of whatever was interrupted. */
static void on_signal(int number)
{
    const int kept = errno;
    (void)number;
    char *block = malloc(1000);
    memset(block, 1, 1000);
    poll(NULL, 0, 1);
    free(block);
    errno = kept;
}

static void wait_for_handler(worker *w, int flags)
{
    static __thread int set_up;
    if (!set_up) {
        const stack_t alternate = {.ss_sp = malloc(ALTERNATE_BYTES), .ss_size = ALTERNATE_BYTES};
        if (flags)
            sigaltstack(&alternate, NULL);
        set_up = 1;
    }
    errno = KEPT;
    long got = pause(); /* the handler is all that ends it */
    expect(w, got == -1 && errno == EINTR);
}

static void round_handler(worker *w)
{
    wait_for_handler(w, 0);
}

static void round_alternate(worker *w)
{
    wait_for_handler(w, SA_ONSTACK);
}

/* Sends each of the three its signal, again and again: one may come before it is waited for. */
static void round_sender(worker *w)
{
    const struct timespec span = {0, 2 * MS};
    static const struct { int worker, signal; } targets[] = {{SIGWAIT, SIGUSR1}, {HANDLER, SIGUSR2}, {ALTERNATE, SIGALRM}};
    errno = KEPT;
    long got = nanosleep(&span, NULL);
    if (interrupted(w, got, errno))
        return;
    expect(w, got == 0 && errno == KEPT);
    for (int i = 0; i < 3; i++)
        if (workers[targets[i].worker].rounds || workers[targets[i].worker].tid)
            expect(w, syscall(SYS_tgkill, getpid(), workers[targets[i].worker].tid, targets[i].signal) == 0);
}

static void expect_child(worker *w, pid_t child, int wanted)
{
    int status = 0;
    errno = KEPT;
    long got;
    while (interrupted(w, got = waitpid(child, &status, 0), errno))
        ;
    expect(w, got == child && errno == KEPT && WIFEXITED(status) && WEXITSTATUS(status) == wanted);
}

static void round_vfork(worker *w)
{
    pid_t child = vfork();
    if (child == 0) {
        usleep(300);
        _exit(STATUS);
    }
    expect_child(w, child, STATUS);
}

static void round_exec(worker *w)
{
    char *const command[] = {"sh", "-c", "exit 7", NULL};
    pid_t child = vfork();
    if (child == 0) {
        execv("/bin/sh", command);
        _exit(1);
    }
    expect_child(w, child, STATUS);
}

static worker workers[COUNT] = {
    [NANOSLEEP] = {.name = "nanosleep", .round = round_nanosleep},
    [CLOCK_NANOSLEEP] = {.name = "clock_nanosleep", .round = round_clock_nanosleep},
    [POLL] = {.name = "poll", .round = round_poll},
    [PPOLL] = {.name = "ppoll", .round = round_ppoll},
    [EPOLL] = {.name = "epoll", .round = round_epoll, .may_be_interrupted = 1},
    [SIGWAIT] = {.name = "sigtimedwait", .round = round_sigwait, .may_be_interrupted = 1},
    [FUTEX] = {.name = "futex", .round = round_futex},
    [READ] = {.name = "read", .round = round_read},
    [ECHO] = {.name = "echo", .round = round_echo},
    [HANDLER] = {.name = "handler", .round = round_handler},
    [ALTERNATE] = {.name = "alternate", .round = round_alternate},
    [SENDER] = {.name = "sender", .round = round_sender},
    [VFORK] = {.name = "vfork", .round = round_vfork},
    [EXEC] = {.name = "exec", .round = round_exec},
};

int main(void)
{
    const struct sigaction own_stack = {.sa_handler = on_signal}, alternate = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    sigset_t waited_for;
    sigemptyset(&waited_for);
    sigaddset(&waited_for, SIGUSR1);
    sigprocmask(SIG_BLOCK, &waited_for, NULL); /* in every thread, or it would end the process */
    sigaction(SIGUSR2, &own_stack, NULL);
    sigaction(SIGALRM, &alternate, NULL);
    if (pipe(sequence) || pipe(echo))
        return 1;
    return run_workers(workers, COUNT);
}
