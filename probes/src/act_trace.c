/* ptrace in small, bounded steps.
 *
 * Waiting is polling: a wait for a tracee has no time-out of its own, and a signal handler that would end it belongs to
 * the program we live in. At first the wait only yields, because most stops arrive within microseconds and the target stands
 * still meanwhile; later it sleeps for a small share of the time that has passed, so that it neither disturbs a long clone
 * nor makes it noticeably longer. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

static const uint64_t YIELD_NS = 100000;
static const uint64_t SHORTEST_NAP_NS = 20000, LONGEST_NAP_NS = 1000000;
static const uint64_t COLLECT_NS = 100000000;
enum { NAP_SHARE = 32 };

uint64_t act_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void act_nap(uint64_t ns)
{
    if (ns < SHORTEST_NAP_NS)
        ns = SHORTEST_NAP_NS;
    if (ns > LONGEST_NAP_NS)
        ns = LONGEST_NAP_NS;
    const struct timespec nap = {0, (long)ns};
    nanosleep(&nap, NULL);
}

void act_linger(uint64_t begin_ns)
{
    uint64_t passed = act_now_ns() - begin_ns;
    if (passed < YIELD_NS)
        sched_yield();
    else
        act_nap(passed / NAP_SHARE);
}

int act_wait(int tid, uint64_t deadline_ns, int *status)
{
    uint64_t begin = act_now_ns();
    for (;;) {
        pid_t got = waitpid(tid, status, __WALL | WNOHANG);
        if (got == tid)
            return WIFSTOPPED(*status) ? 0 : ESRCH;
        if (got < 0 && errno != EINTR)
            return ESRCH;
        if (act_now_ns() > deadline_ns)
            return ETIMEDOUT;
        act_linger(begin);
    }
}

int act_is_event(int status, int event)
{
    return status >> 16 == event;
}

int act_is_syscall_stop(int status)
{
    return WSTOPSIG(status) == (SIGTRAP | 0x80) && status >> 16 == 0;
}

long act_signal_of(int status)
{
    if (status >> 16 || act_is_syscall_stop(status))
        return 0;
    return WSTOPSIG(status);
}

int act_wait_interrupted(int tid, uint64_t deadline_ns)
{
    int status, error;
    while (!(error = act_wait(tid, deadline_ns, &status))) {
        if (act_is_event(status, PTRACE_EVENT_STOP))
            return 0;
        if (ptrace(PTRACE_CONT, tid, 0, act_signal_of(status)) < 0)
            return errno;
    }
    return error;
}

int act_let_go(int tid, int error)
{
    int status;
    if (ptrace(PTRACE_DETACH, tid, 0, 0) == 0)
        return 1;
    if (error == ETIMEDOUT)
        return 0;
    return act_wait(tid, act_now_ns() + COLLECT_NS, &status) == ESRCH;
}

int act_get_regs(int tid, struct user_regs_struct *regs)
{
    struct iovec out = {regs, sizeof *regs};
    if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &out) < 0)
        return errno;
    return out.iov_len == sizeof *regs ? 0 : ENOEXEC; /* shorter: a 32-bit task */
}

int act_set_regs(int tid, const struct user_regs_struct *regs)
{
    struct iovec in = {(void *)regs, sizeof *regs};
    return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &in) < 0 ? errno : 0;
}

int act_get_state(int tid, act_state *state)
{
    int error = act_get_regs(tid, &state->regs);
    if (error)
        return error;
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof state->mask, &state->mask) < 0)
        return errno;
    /* Room for the magic word that a frame has at its end; the kernel wants a multiple of 8. */
    struct iovec out = {state->xstate, sizeof state->xstate - sizeof(uint64_t)};
    if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &out) < 0)
        return errno;
    state->xstate_size = out.iov_len;
    return 0;
}

int act_set_xstate(int tid, act_state *state)
{
    struct iovec in = {state->xstate, state->xstate_size};
    return ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &in) < 0 ? errno : 0;
}

int act_set_mask(int tid, const uint64_t *mask)
{
    return ptrace(PTRACE_SETSIGMASK, tid, sizeof *mask, mask) < 0 ? errno : 0;
}

/* linux/ptrace.h, Linux 5.13; not in every glibc's header, and the two headers do not go together. */
static const int GET_RSEQ_CONFIGURATION = 0x420f;
struct rseq_configuration {
    uint64_t pointer;
    uint32_t size, signature, flags, pad;
};

/* Inside a restartable sequence any stop already made the kernel prepare an abort; a chain of frames would hide it. */
int act_in_rseq(int tid, uint64_t rip, int *inside)
{
    struct rseq_configuration rseq = {0};
    struct { uint32_t version, flags; uint64_t start, length, abort; } section;
    uint64_t pointer = 0;
    *inside = 0;
    if (ptrace(GET_RSEQ_CONFIGURATION, tid, sizeof rseq, &rseq) <= 0 || !rseq.pointer)
        return 0; /* none registered; or a kernel before 5.13, which cannot tell */
    int error = act_read(tid, rseq.pointer + 8, &pointer, sizeof pointer);
    if (error || !pointer)
        return error;
    error = act_read(tid, pointer, &section, sizeof section);
    *inside = !error && rip - section.start < section.length;
    return error;
}

/* linux/ptrace.h, Linux 6.4; as above. */
static const int GET_SYSCALL_USER_DISPATCH = 0x4211;
struct dispatch_configuration {
    uint64_t mode, selector, offset, length;
};

int act_dispatches_calls(int tid)
{
    struct dispatch_configuration dispatch = {0};
    return ptrace(GET_SYSCALL_USER_DISPATCH, tid, sizeof dispatch, &dispatch) == 0 && dispatch.mode != 0;
}

int act_read(int pid, uint64_t address, void *buffer, size_t size)
{
    struct iovec here = {buffer, size}, there = {(void *)(uintptr_t)address, size};
    ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
    return got == (ssize_t)size ? 0 : got < 0 ? errno : EFAULT;
}

int act_write(int pid, uint64_t address, const void *buffer, size_t size)
{
    struct iovec here = {(void *)buffer, size}, there = {(void *)(uintptr_t)address, size};
    ssize_t put = process_vm_writev(pid, &here, 1, &there, 1, 0);
    return put == (ssize_t)size ? 0 : put < 0 ? errno : EFAULT;
}

struct user_regs_struct act_call_regs(const struct user_regs_struct *now, const as_code *code, uint64_t rsp, long number,
                                      const uint64_t args[4])
{
    struct user_regs_struct regs = {0};
    regs.cs = now->cs;
    regs.ss = now->ss;
    regs.ds = now->ds;
    regs.es = now->es;
    regs.fs = now->fs;
    regs.gs = now->gs;
    regs.fs_base = now->fs_base;
    regs.gs_base = now->gs_base;
    regs.eflags = 0x202; /* interrupts on, direction up, no single step */
    regs.orig_rax = ~0ull; /* in no system call: nothing to restart */
    regs.rip = code->syscall_return;
    regs.rsp = rsp;
    regs.rax = (uint64_t)number;
    regs.rdi = args[0];
    regs.rsi = args[1];
    regs.rdx = args[2];
    regs.r10 = args[3];
    return regs;
}

#endif
