/* One system call by a thread of the target, crash-only.
 *
 * Rules, in the order of the code: nothing of the target changes before SETREGSET, which commits to the whole chain at once;
 * from there on the thread would complete and heal by itself at every instant. A living tracer takes a short cut: it brings
 * the thread to a stop that is neither a syscall-exit nor a single step (only after such a stop does the kernel work out how
 * an interrupted call is restarted) and puts the registers back. When a wait runs out, nothing is undone: the thread is left
 * to its chain. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <sys/ptrace.h>

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
static int restore(const as_thread *thread, const act_work *w)
{
    int tid = thread->tid;
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 || ptrace(PTRACE_CONT, tid, 0, 0) < 0)
        return errno;
    int error = act_wait_interrupted(tid, thread->deadline_ns);
    if (!error)
        error = act_set_mask(tid, &w->before.mask);
    return error ? error : act_set_regs(tid, &w->before.regs);
}

static int prepare(const as_thread *thread, const act_call *call, act_work *w, as_outcome *how)
{
    int error = act_hold(thread, &w->before, how);
    if (error)
        return error;
    /* Not before: a thread that it makes by itself while it is being stopped must not be attached. */
    if (call->clones && ptrace(PTRACE_SETOPTIONS, thread->tid, 0, (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE)) < 0)
        return errno;
    how->step = AS_AT_STACK;
    error = act_build_chain(thread, call, &w->before, &w->chain);
    if (error)
        return error;
    how->step = AS_AT_WRITE;
    return act_write(thread->pid, w->chain.low, w->chain.bytes, w->chain.size);
}

static int perform(const as_thread *thread, const act_call *call, const act_work *w, as_held *out, as_outcome *how)
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
    act_work *w = act_work_open();
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
        how->released = act_let_go(thread->tid, error);
        how->pause_ns = act_now_ns() - begin;
    }
    if (!error && how->result < 0) {
        how->step = AS_AT_CALL;
        error = (int)-how->result;
    } else if (!error) {
        how->step = AS_AT_END;
    }
    act_work_close(w);
    return error;
}

#endif
