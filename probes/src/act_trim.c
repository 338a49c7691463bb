/* malloc_trim, called by a thread of the target in the live process, crash-only.
 *
 * Strategy: one SETREGSET commits the thread to a chain that lies below its red zone. It blocks all signals but one, enters
 * malloc_trim, stores what that returned, puts errno back, sends itself that one signal, and returns by rt_sigreturn to its
 * original state. Each step ends in a `ret` into the next, with pieces of code that every libc has.
 *
 * The signal is ignored by default and nobody handles it, so a thread without a tracer passes it unnoticed. A living tracer
 * sees it delivered, and puts registers, vector state and mask back there: before any rt_sigreturn, which would make the
 * kernel forget for how long an interrupted call has yet to wait. Whatever else goes wrong, the thread is let go, and its
 * chain brings it home. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

enum { LINKS = 19, SPARE_ROOM = 16384, SYSCALL_LENGTH = 2 };
static const uint32_t NO_RESULT = 0xffffffffu;

/* Addresses on the thread's stack, downwards: the FP state, these words, the original state's frame, the links. */
typedef struct places {
    uint64_t fp, mask, result, home, links;
} places;

static int check_code(int pid, const as_trim_plan *plan)
{
    static const uint8_t pop_rdi[] = {0x5f, 0xc3}, pop_rsi[] = {0x5e, 0xc3}, pop_rax[] = {0x58, 0xc3};
    const uint8_t near[] = {0x89, 0x07, 0xc3}, far[] = {0x89, 0x47, (uint8_t)plan->store_displacement, 0xc3};
    int error = act_same_code(pid, plan->pop_rdi, pop_rdi, sizeof pop_rdi);
    if (!error)
        error = act_same_code(pid, plan->pop_rsi, pop_rsi, sizeof pop_rsi);
    if (!error)
        error = act_same_code(pid, plan->pop_rax, pop_rax, sizeof pop_rax);
    if (error)
        return error;
    return plan->store_displacement ? act_same_code(pid, plan->store_eax, far, sizeof far)
                                    : act_same_code(pid, plan->store_eax, near, sizeof near);
}

static void *at(act_chain *chain, uint64_t address)
{
    return chain->bytes + (address - chain->low);
}

static int find_places(const as_thread *thread, act_work *w, places *p, size_t *fp_size)
{
    uint64_t bottom, top = w->before.regs.rsp - RED_ZONE;
    int error = act_frame_xstate(&w->before, fp_size);
    if (!error)
        error = act_stack_start(thread, &w->before.regs, &bottom);
    if (error)
        return error;
    p->fp = (top - *fp_size - sizeof(uint32_t)) & ~63ull;
    p->mask = p->fp - 2 * sizeof(uint64_t);
    p->result = p->fp - sizeof(uint64_t);
    p->home = act_frame_below(p->mask);
    p->links = p->home - LINKS * sizeof(uint64_t);
    w->chain.low = p->links;
    w->chain.size = top - p->links;
    return w->chain.size > sizeof w->chain.bytes || p->links < bottom + SPARE_ROOM ? ENOSPC : 0;
}

static void put_links(const as_thread *thread, const as_trim_plan *plan, const places *p, uint64_t errno_at, int32_t saved_errno,
                      uint64_t *links)
{
    const uint64_t only_return = thread->code.syscall_return + SYSCALL_LENGTH;
    const uint64_t chain[LINKS] = {
        plan->pop_rdi, plan->pad_bytes,
        plan->function, /* is entered as by a call: with rsp at 8 modulo 16 */
        only_return,
        plan->pop_rdi, p->result - (uint64_t)plan->store_displacement, plan->store_eax,
        plan->pop_rdi, errno_at - (uint64_t)plan->store_displacement, plan->pop_rax, (uint32_t)saved_errno, plan->store_eax,
        plan->pop_rdi, (uint64_t)plan->inner_tid, plan->pop_rsi, (uint64_t)plan->signal, plan->pop_rax, SYS_tkill,
        thread->code.syscall_return, /* and on into the frame above */
    };
    memcpy(links, chain, sizeof chain);
}

static int build(const as_thread *thread, const as_trim_plan *plan, act_work *w, places *p)
{
    uint64_t errno_at = w->before.regs.fs_base + plan->errno_offset;
    struct user_regs_struct resumed;
    int32_t saved_errno;
    size_t fp_size;
    int error = find_places(thread, w, p, &fp_size);
    if (!error)
        error = act_read(thread->pid, errno_at, &saved_errno, sizeof saved_errno);
    if (error)
        return error;
    act_resume_regs(thread->pid, &w->before, &resumed);
    const uint64_t mask = ALL_SIGNALS & ~(1ull << (plan->signal - 1));
    memset(w->chain.bytes, 0, w->chain.size);
    memcpy(at(&w->chain, p->fp), w->before.xstate, fp_size + sizeof(uint32_t));
    memcpy(at(&w->chain, p->mask), &mask, sizeof mask);
    memcpy(at(&w->chain, p->result), &NO_RESULT, sizeof NO_RESULT);
    act_frame(at(&w->chain, p->home), &resumed, w->before.mask, p->fp, &thread->code);
    put_links(thread, plan, p, errno_at, saved_errno, at(&w->chain, p->links));
    const uint64_t block[4] = {SIG_SETMASK, p->mask, 0, sizeof mask};
    w->chain.start = act_call_regs(&w->before.regs, &thread->code, p->links, SYS_rt_sigprocmask, block);
    return 0;
}

static int prepare(const as_thread *thread, const as_trim_plan *plan, act_work *w, places *p, as_outcome *how)
{
    int error = act_hold(thread, &w->before, how);
    if (!error)
        error = check_code(thread->pid, plan);
    if (!error)
        error = act_vet(thread, plan, &w->before.regs, how);
    if (error)
        return error;
    how->step = AS_AT_STACK;
    error = build(thread, plan, w, p);
    if (error)
        return error;
    how->step = AS_AT_WRITE;
    return act_write(thread->pid, w->chain.low, w->chain.bytes, w->chain.size);
}

/* Until the signal arrives that the chain sends; others that come before it are handed on. */
static int await_signal(const as_thread *thread, const as_trim_plan *plan, const places *p)
{
    for (;;) {
        struct user_regs_struct regs;
        int status, error = act_wait(thread->tid, thread->deadline_ns, &status);
        if (error)
            return error;
        if (act_signal_of(status) == plan->signal) {
            error = act_get_regs(thread->tid, &regs);
            if (error)
                return error;
            if (regs.rip == thread->code.syscall_return + SYSCALL_LENGTH && regs.rsp == p->home)
                return 0;
        }
        if (ptrace(PTRACE_CONT, thread->tid, 0, act_signal_of(status)) < 0)
            return errno;
    }
}

static int perform(const as_thread *thread, const as_trim_plan *plan, act_work *w, const places *p, as_outcome *how,
                   uint64_t *duration_ns)
{
    int tid = thread->tid;
    uint64_t mask = ALL_SIGNALS & ~(1ull << (plan->signal - 1)), begin;
    int32_t returned;
    how->step = AS_AT_FUNCTION;
    int error = act_set_regs(tid, &w->chain.start); /* the commit */
    if (!error)
        error = act_set_mask(tid, &mask); /* as the chain itself would do first: no handler gets in before it */
    if (error)
        return error;
    begin = act_now_ns();
    if (ptrace(PTRACE_CONT, tid, 0, 0) < 0)
        return errno;
    error = await_signal(thread, plan, p);
    *duration_ns = act_now_ns() - begin;
    if (!error)
        error = act_read(thread->pid, p->result, &returned, sizeof returned);
    if (error)
        return error;
    how->result = returned;
    how->step = AS_AT_RESTORE;
    error = act_set_xstate(tid, &w->before);
    if (!error)
        error = act_set_mask(tid, &w->before.mask);
    return error ? error : act_set_regs(tid, &w->before.regs);
}

int as_trim(const as_thread *thread, const as_trim_plan *plan, as_outcome *how, uint64_t *duration_ns)
{
    places p;
    *how = (as_outcome){.step = AS_AT_SEIZE, .released = 1};
    *duration_ns = 0;
    act_work *w = act_work_open();
    if (!w)
        return ENOMEM;
    uint64_t begin = act_now_ns();
    int error = 0;
    if (ptrace(PTRACE_SEIZE, thread->tid, 0, (long)PTRACE_O_TRACESYSGOOD) < 0) {
        error = errno;
    } else {
        error = prepare(thread, plan, w, &p, how);
        if (!error)
            error = perform(thread, plan, w, &p, how, duration_ns);
        /* Its frames are below the red zone of a thread that is as it was: no later look is to take them for a handler's. */
        if (!error) {
            how->step = AS_AT_END;
            memset(w->chain.bytes, 0, w->chain.size);
            act_write(thread->pid, w->chain.low, w->chain.bytes, w->chain.size);
        }
        how->released = act_let_go(thread->tid, error);
        how->pause_ns = act_now_ns() - begin;
    }
    act_work_close(w);
    return error;
}

#endif
