/* One system call by a thread of the target, crash-only.
 *
 * Rules, in the order of the code: nothing of the target changes before SETREGSET, which commits to the whole chain at once;
 * from there on the thread would complete and heal by itself at every instant. A living tracer takes a short cut: it brings
 * the thread to a stop that is neither a syscall-exit nor a single step (only after such a stop does the kernel work out how
 * an interrupted call is restarted) and puts the registers back. When a wait runs out, nothing is undone: the thread is left
 * to its chain. What the kernel copies from us during the stop is locked in memory, so that no fault of ours can cut a copy in
 * half. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

typedef struct work {
    act_state before;
    act_chain chain;
} work;

enum { RSEQ_ATTEMPTS = 20 };

static work *work_open(void)
{
    work *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (w == MAP_FAILED)
        return NULL;
    mlock(w, sizeof *w); /* may be refused by RLIMIT_MEMLOCK; the pages are there in any case */
    return w;
}

static int stop(const as_thread *thread)
{
    for (int attempt = 0; attempt < RSEQ_ATTEMPTS; attempt++) {
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
        if (ptrace(PTRACE_CONT, thread->tid, 0, 0) < 0)
            return errno;
    }
    return EBUSY;
}

static int check_code(const as_thread *thread)
{
    static const uint8_t syscall_return[] = {0x0f, 0x05, 0xc3};
    static const uint8_t restorer[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    uint8_t found[sizeof restorer];
    int error = act_read(thread->pid, thread->code.syscall_return, found, sizeof syscall_return);
    if (error)
        return error;
    if (memcmp(found, syscall_return, sizeof syscall_return))
        return EILSEQ;
    error = act_read(thread->pid, thread->code.restorer, found, sizeof restorer);
    if (error)
        return error;
    return memcmp(found, restorer, sizeof restorer) ? EILSEQ : 0;
}

/* Runs the committed call to the point where its result is known: the child's arrival, or the exit of the call. */
static int run_call(const as_thread *thread, const act_call *call, as_held *out, int64_t *result)
{
    int tid = thread->tid, exits = 0, status;
    for (;;) {
        int error = act_wait(tid, thread->deadline_ns, &status);
        if (error)
            return error;
        if (call->clones && act_is_event(status, PTRACE_EVENT_CLONE)) {
            unsigned long child = 0;
            if (ptrace(PTRACE_GETEVENTMSG, tid, 0, &child) < 0)
                return errno;
            out->pid = (int)child;
            *result = (int64_t)child;
            return 0;
        }
        if (act_is_syscall_stop(status) && ++exits == 2) {
            struct user_regs_struct regs;
            error = act_get_regs(tid, &regs);
            *result = (int64_t)regs.rax;
            return error;
        }
        if (ptrace(PTRACE_SYSCALL, tid, 0, act_signal_of(status)) < 0)
            return errno;
    }
}

/* From a stop inside the call to one at which the kernel will treat the original registers as if nothing had been. */
static int restore(const as_thread *thread, const work *w)
{
    int tid = thread->tid;
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 || ptrace(PTRACE_CONT, tid, 0, 0) < 0)
        return errno;
    int error = act_wait_interrupted(tid, thread->deadline_ns);
    if (!error)
        error = act_set_mask(tid, &w->before.mask);
    return error ? error : act_set_regs(tid, &w->before.regs);
}

static int prepare(const as_thread *thread, const act_call *call, work *w, as_outcome *how)
{
    int tid = thread->tid;
    how->step = AS_AT_STOP;
    int error = stop(thread);
    if (error)
        return error;
    how->step = AS_AT_STATE;
    if (act_dispatches_calls(tid))
        return EOPNOTSUPP;
    /* Not before: a thread that it makes by itself while it is being stopped must not be attached. */
    if (call->clones && ptrace(PTRACE_SETOPTIONS, tid, 0, (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE)) < 0)
        return errno;
    error = act_get_state(tid, &w->before);
    if (error)
        return error;
    how->step = AS_AT_CODE;
    error = check_code(thread);
    if (error)
        return error;
    how->step = AS_AT_STACK;
    error = act_build_chain(thread, call, &w->before, &w->chain);
    if (error)
        return error;
    how->step = AS_AT_WRITE;
    return act_write(thread->pid, w->chain.low, w->chain.bytes, w->chain.size);
}

static int perform(const as_thread *thread, const act_call *call, const work *w, as_held *out, as_outcome *how)
{
    int tid = thread->tid;
    how->step = AS_AT_CALL;
    int error = act_set_regs(tid, &w->chain.start); /* the commit */
    if (error)
        return error;
    error = act_set_mask(tid, &ALL_SIGNALS);
    if (error)
        return error;
    if (ptrace(PTRACE_SYSCALL, tid, 0, 0) < 0)
        return errno;
    error = run_call(thread, call, out, &how->result);
    if (error)
        return error;
    if (out->pid) {
        out->scratch = w->chain.scratch;
        error = act_read(thread->pid, w->chain.child_word, &out->inner_pid, sizeof out->inner_pid);
        if (error)
            return error;
    }
    how->step = AS_AT_RESTORE;
    return restore(thread, w);
}

int act_borrow(const as_thread *thread, const act_call *call, as_held *out, as_outcome *how)
{
    *out = (as_held){.code = thread->code};
    *how = (as_outcome){.step = AS_AT_SEIZE, .released = 1};
    work *w = work_open();
    if (!w)
        return ENOMEM;
    uint64_t begin = act_now_ns();
    int error = 0;
    if (ptrace(PTRACE_SEIZE, thread->tid, 0, (long)PTRACE_O_TRACESYSGOOD) < 0) {
        error = errno;
    } else {
        error = prepare(thread, call, w, how);
        if (!error)
            error = perform(thread, call, w, out, how);
        /* ESRCH: the thread has ended, and there is nothing left to let go. */
        how->released = ptrace(PTRACE_DETACH, thread->tid, 0, 0) == 0 || error == ESRCH;
        how->pause_ns = act_now_ns() - begin;
    }
    if (!error && how->result < 0) {
        how->step = AS_AT_CALL;
        error = (int)-how->result;
    } else if (!error) {
        how->step = AS_AT_END;
    }
    munmap(w, sizeof *w);
    return error;
}

#endif
