/* The beginning of everything that is done with a thread of the target: it is stopped, and found fit for a chain of frames.
 *
 * Rules: nothing of the target is changed here, so whoever gets an error only has to let the thread go. What the kernel copies
 * from us during the stop is locked in memory, so that no fault of ours can cut a copy in half. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

enum { RSEQ_ATTEMPTS = 64, STEP_NS = 20000, LONGEST_CODE = 16 };

act_work *act_work_open(void)
{
    act_work *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (w == MAP_FAILED)
        return NULL;
    mlock(w, sizeof *w); /* may be refused by RLIMIT_MEMLOCK; the pages are there in any case */
    return w;
}

void act_work_close(act_work *w)
{
    munmap(w, sizeof *w);
}

/* A thread that is stopped within a restartable sequence is sent on, and given the time to get back to user code, where the
 * kernel first aborts the sequence: asked to stop again at once, it would not have moved. */
static int stop(const as_thread *thread)
{
    for (int attempt = 1;; attempt++) {
        struct user_regs_struct regs;
        int inside = 0;
        if (ptrace(PTRACE_INTERRUPT, thread->tid, 0, 0) < 0)
            return errno;
        int error = act_wait_interrupted(thread->tid, thread->deadline_ns);
        if (!error)
            error = act_get_regs(thread->tid, &regs);
        if (!error)
            error = act_in_rseq(thread->tid, regs.rip, &inside);
        if (error || !inside)
            return error;
        if (attempt == RSEQ_ATTEMPTS)
            return EBUSY; /* it stands still, and can be let go */
        if (ptrace(PTRACE_CONT, thread->tid, 0, 0) < 0)
            return errno;
        act_nap((uint64_t)attempt * STEP_NS);
    }
}

int act_same_code(int pid, uint64_t address, const void *code, size_t size)
{
    uint8_t found[LONGEST_CODE];
    if (size > sizeof found)
        return EINVAL;
    int error = act_read(pid, address, found, size);
    if (error)
        return error;
    return memcmp(found, code, size) ? EILSEQ : 0;
}

int act_hold(const as_thread *thread, act_state *state, as_outcome *how)
{
    static const uint8_t syscall_return[] = {0x0f, 0x05, 0xc3};
    static const uint8_t restorer[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    how->step = AS_AT_STOP;
    int error = stop(thread);
    if (error)
        return error;
    how->step = AS_AT_STATE;
    if (act_dispatches_calls(thread->tid))
        return EOPNOTSUPP;
    error = act_get_state(thread->tid, state);
    if (error)
        return error;
    how->step = AS_AT_CODE;
    error = act_same_code(thread->pid, thread->code.syscall_return, syscall_return, sizeof syscall_return);
    return error ? error : act_same_code(thread->pid, thread->code.restorer, restorer, sizeof restorer);
}

#endif
