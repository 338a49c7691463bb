/* A program with free pages to give back, one thread of which waits in a system call and knows what it must find afterwards.
 *
 * usage: trimmed KIND [--locked]
 *   KIND: read poll ppoll nanosleep futex epoll sigtimedwait accept recv wait pause: the call that the waiter is in;
 *         blocked: read, with all signals blocked; coroutine: read, on a stack of its own; handler: read, in a signal
 *         handler that returns by code of the program's own, not by libc's
 *   --locked: all memory is mlocked, so that malloc_trim's madvise fails and sets errno
 *
 * The waiter makes its call with every register filled, and compares them when it is over. Protocol: one JSON line when it is
 * about to wait; at a line on stdin the wait is ended by its event (by a signal where there is none), and one JSON line tells
 * the result and what had changed; a line that begins with "exec" starts the program anew; end at EOF. free_pages: whole pages in free chunks, one page off each end not counted. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, BLOCKS = 400, BLOCK_BYTES = 64 << 10, KEPT_ERRNO = 91, STACK_BYTES = 64 << 10 };

/* What is in the registers across the call. 0 zmm0-31, 2048 the same afterwards, 4096 k1-k7 from 8 on, 4160 afterwards,
 * 4224 rbx rbp r12 r13 r14 r15, 4288 afterwards, 4352 arguments. */
typedef struct image {
    unsigned char vectors_in[32][64], vectors_out[32][64];
    uint64_t masks_in[8], masks_out[8], general_in[8], general_out[8], arguments[8];
} __attribute__((aligned(64))) image;
_Static_assert(sizeof(image) == 4416, "the offsets in the code below");
long wide_call(image *), narrow_call(image *);
asm(".globl wide_call, narrow_call\n"
    "wide_call:\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " vmovdqa64 \\r*64(%rdi),%zmm\\r\n"
    ".endr\n"
    ".irp r,1,2,3,4,5,6,7\n"
    " kmovw 4096+\\r*8(%rdi),%k\\r\n"
    ".endr\n"
    " call make_call\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " vmovdqa64 %zmm\\r,2048+\\r*64(%rdi)\n"
    ".endr\n"
    ".irp r,1,2,3,4,5,6,7\n"
    " kmovw %k\\r,4160+\\r*8(%rdi)\n"
    ".endr\n"
    " vzeroupper\n"
    " ret\n"
    "narrow_call:\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    " movdqa \\r*64(%rdi),%xmm\\r\n"
    ".endr\n"
    " call make_call\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    " movdqa %xmm\\r,2048+\\r*64(%rdi)\n"
    ".endr\n"
    " ret\n"
    "make_call: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    " mov 4224(%rdi),%rbx; mov 4232(%rdi),%rbp; mov 4240(%rdi),%r12\n"
    " mov 4248(%rdi),%r13; mov 4256(%rdi),%r14; mov 4264(%rdi),%r15\n"
    " mov %rdi,-120(%rsp); mov %rbx,-8(%rsp); mov %r15,-128(%rsp)\n" /* the red zone */
    " mov 4352(%rdi),%rax; mov 4368(%rdi),%rsi; mov 4376(%rdi),%rdx\n"
    " mov 4384(%rdi),%r10; mov 4392(%rdi),%r8; mov 4400(%rdi),%r9; mov 4360(%rdi),%rdi\n"
    " syscall\n"
    " mov -120(%rsp),%rdi\n"
    " cmp %rbx,-8(%rsp); je 2f; xor %r12,%r12\n"
    "2: cmp %r15,-128(%rsp); je 3f; xor %r13,%r13\n"
    "3: mov %rbx,4288(%rdi); mov %rbp,4296(%rdi); mov %r12,4304(%rdi)\n"
    " mov %r13,4312(%rdi); mov %r14,4320(%rdi); mov %r15,4328(%rdi)\n"
    " pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");

static image held;
static int ends[2], sockets[2], child_pid, word;
static pid_t waiter_tid;
static char free_line[64];
static const char *kind;

static int is(const char *name)
{
    return !strcmp(kind, name);
}

static void say(const char *line)
{
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        _exit(1);
}

/* Every second of many blocks is free again: no two free chunks meet. */
static void scatter(void)
{
    static char *blocks[BLOCKS];
    int pages = 0;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        memset(blocks[i], i, BLOCK_BYTES);
    }
    for (int i = 0; i < BLOCKS; i += 2) {
        pages += BLOCK_BYTES / PAGE - 2;
        free(blocks[i]);
    }
    sprintf(free_line, "\"free_pages\": %d", pages);
}

static void arguments(long number, ...)
{
    __builtin_va_list list;
    __builtin_va_start(list, number);
    held.arguments[0] = (uint64_t)number;
    for (int i = 1; i < 7; i++)
        held.arguments[i] = __builtin_va_arg(list, uint64_t);
    __builtin_va_end(list);
}

static void prepare_call(void)
{
    static struct pollfd event;
    static struct epoll_event arrived;
    static struct timespec hour = {3600, 0};
    static sigset_t set;
    static char byte;
    const uint64_t none = 0;
    event = (struct pollfd){ends[0], POLLIN, 0};
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    arguments(SYS_read, (uint64_t)ends[0], &byte, 1ul, none, none, none);
    if (is("poll"))
        arguments(SYS_poll, &event, 1ul, ~none, none, none, none);
    else if (is("ppoll"))
        arguments(SYS_ppoll, &event, 1ul, &hour, &set, 8ul, none);
    else if (is("nanosleep"))
        arguments(SYS_nanosleep, &hour, none, none, none, none, none);
    else if (is("futex"))
        arguments(SYS_futex, &word, 128ul /* FUTEX_WAIT_PRIVATE */, none, none, none, none);
    else if (is("epoll")) {
        int set_of_one = epoll_create1(EPOLL_CLOEXEC);
        arrived.events = EPOLLIN;
        epoll_ctl(set_of_one, EPOLL_CTL_ADD, ends[0], &arrived);
        arguments(SYS_epoll_wait, (uint64_t)set_of_one, &arrived, 1ul, ~none, none, none);
    } else if (is("sigtimedwait"))
        arguments(SYS_rt_sigtimedwait, &set, none, none, 8ul, none, none);
    else if (is("recv"))
        arguments(SYS_recvfrom, (uint64_t)sockets[0], &byte, 1ul, none, none, none);
    else if (is("accept")) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockets[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bind(listening, (struct sockaddr *)&name, sizeof(sa_family_t)); /* a name of the kernel's choice */
        listen(listening, 1);
        sockets[0] = listening;
        arguments(SYS_accept, (uint64_t)listening, none, none, none, none, none);
    } else if (is("wait"))
        arguments(SYS_wait4, (uint64_t)child_pid, none, none, none, none, none);
    else if (is("pause"))
        arguments(SYS_pause, none, none, none, none, none, none);
}

static void make_the_call(void)
{
    const uint32_t mxcsr = 0xdf80; /* round up, flush to zero */
    const uint16_t control = 0x0c7f;
    int wide = __builtin_cpu_supports("avx512f"), changed = 0;
    uint32_t mxcsr_after;
    uint16_t control_after;
    uint64_t seed = 9;
    stack_t alternate;
    sigset_t blocked;
    char line[400];
    unsigned char *bytes = (unsigned char *)&held;
    for (size_t i = 0; i < sizeof held.vectors_in; i++)
        bytes[i] = (unsigned char)((seed = seed * 6364136223846793005u + 1) >> 56);
    for (int i = 0; i < 8; i++) {
        held.masks_in[i] = (uint16_t)(seed >> (i + 20));
        held.general_in[i] = seed ^ (uint64_t)i << 50;
    }
    errno = KEPT_ERRNO;
    asm volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
    long result = (wide ? wide_call : narrow_call)(&held);
    asm volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_after), "=m"(control_after));
    int kept = errno;
    for (int i = 0; i < (wide ? 32 : 16); i++)
        changed += memcmp(held.vectors_in[i], held.vectors_out[i], wide ? 64 : 16) != 0;
    changed += memcmp(held.general_in, held.general_out, 6 * sizeof(uint64_t)) != 0;
    changed += wide && memcmp(held.masks_in + 1, held.masks_out + 1, 7 * sizeof(uint64_t)) != 0;
    changed += (mxcsr_after & 0xffc0) != (mxcsr & 0xffc0) || control_after != control;
    sigaltstack(NULL, &alternate);
    changed += alternate.ss_size != STACK_BYTES || alternate.ss_flags;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    sprintf(line, "{\"result\": %ld, \"errno\": %d, \"changed\": %d, \"usr1_blocked\": %d, \"usr2_blocked\": %d}\n", result, kept,
            changed, sigismember(&blocked, SIGUSR1), sigismember(&blocked, SIGUSR2));
    say(line);
}

static ucontext_t outside, inside;

static void in_handler(int number)
{
    (void)number;
    make_the_call();
}

/* libc's sigaction would put its own way back in. */
void own_way_back(void);
asm(".globl own_way_back\nown_way_back: mov $15,%eax; syscall\n");

static void wait_in_handler(void)
{
    const struct { void (*handler)(int); unsigned long flags; void (*restorer)(void); uint64_t mask; } action = {
        in_handler, 0x04000000 /* SA_RESTORER */, own_way_back, 0};
    syscall(SYS_rt_sigaction, SIGUSR2, &action, NULL, sizeof action.mask);
    syscall(SYS_tgkill, getpid(), waiter_tid, SIGUSR2);
}

static void *wait_here(void *unused)
{
    static char alternate[STACK_BYTES];
    const stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    char line[300];
    sigset_t all;
    waiter_tid = (pid_t)syscall(SYS_gettid);
    sigaltstack(&stack, NULL);
    sigfillset(&all);
    if (is("blocked"))
        sigprocmask(SIG_BLOCK, &all, NULL);
    prepare_call();
    sprintf(line, "{\"pid\": %d, \"tid\": %d, \"call\": %lu, %s}\n", getpid(), waiter_tid, held.arguments[0], free_line);
    say(line);
    if (is("coroutine")) {
        getcontext(&inside);
        inside.uc_stack.ss_sp = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        inside.uc_stack.ss_size = STACK_BYTES;
        mprotect((char *)inside.uc_stack.ss_sp + STACK_BYTES - PAGE, PAGE, PROT_READ); /* it does not join a neighbour */
        inside.uc_stack.ss_size = STACK_BYTES - PAGE;
        inside.uc_link = &outside;
        makecontext(&inside, make_the_call, 0);
        swapcontext(&outside, &inside);
    } else if (is("handler")) {
        wait_in_handler();
    } else {
        make_the_call();
    }
    return unused;
}

static void on_signal(int number)
{
    (void)number;
}

static void end_the_wait(void)
{
    if (is("nanosleep") || is("pause"))
        syscall(SYS_tgkill, getpid(), waiter_tid, SIGUSR2);
    else if (is("sigtimedwait"))
        syscall(SYS_tgkill, getpid(), waiter_tid, SIGUSR1);
    else if (is("futex"))
        syscall(SYS_futex, &word, 129ul /* FUTEX_WAKE_PRIVATE */, 1ul);
    else if (is("recv"))
        send(sockets[1], "x", 1, 0);
    else if (is("wait"))
        kill(child_pid, SIGKILL);
    else if (is("accept")) {
        struct sockaddr_un name;
        socklen_t size = sizeof name;
        getsockname(sockets[0], (struct sockaddr *)&name, &size);
        connect(sockets[1], (struct sockaddr *)&name, size);
    } else if (write(ends[1], "x", 1) != 1)
        _exit(1);
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = on_signal};
    char line[64];
    sigset_t one;
    pthread_t waiter;
    kind = argc > 1 ? argv[1] : "read";
    sigaction(SIGUSR2, &action, NULL);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &one, NULL);
    if (pipe2(ends, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
        return 1;
    if (is("wait") && !(child_pid = fork())) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    scatter();
    if (argc > 2 && !strcmp(argv[2], "--locked") && mlockall(MCL_CURRENT | MCL_FUTURE))
        return 1;
    if (pthread_create(&waiter, NULL, wait_here, NULL))
        return 1;
    while (read(STDIN_FILENO, line, sizeof line) > 0) {
        if (!strncmp(line, "exec", 4))
            execv("/proc/self/exe", argv);
        end_the_wait();
    }
    if (child_pid)
        kill(child_pid, SIGKILL);
    return 0;
}
