/* May this thread be made to call malloc_trim? Only if it is not inside malloc, and nothing it has interrupted is.
 *
 * Strategy: three looks, each of which only reads.
 * 1. The thread was interrupted while it waited in a system call of a short list. malloc itself never waits in these, but for a
 *    futex: that one is a lock of malloc's if a return address into malloc's code lies close to the stack pointer.
 * 2. From its stack pointer up to its control block there is no signal frame: what a handler has interrupted may be malloc, on
 *    this stack or another. A frame is known by what the kernel puts into it for every 64-bit program, whoever returns from
 *    the handler.
 * 3. Each arena's lock is seen free once while the thread stands still, so it is not this thread that holds one. They need not
 *    be free all at once: another thread's lock is waited for by malloc_trim like by any other call.
 * A process that never had a second thread takes no lock: there the first two looks decide.
 *
 * Rules: words of calls that ended long ago refuse too often, never too rarely. Return addresses into malloc are looked for only
 * where they can tell something, because dead ones stay on a stack for good: most threads of Ruby, bash and PostgreSQL have
 * some. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <sys/syscall.h>

enum { WORD = 8, WORDS = 2048, MOST_STACK_BYTES = 8 << 20, MOST_ARENAS = 1 << 16 };
/* A lock's slow path needs some hundred bytes between malloc and the kernel. */
enum { CLOSE_WORDS = 512 };
/* In words, from the start of a signal frame: see act_frame.c. BEHIND: how far back a look at one word goes. */
enum { FRAME_FLAGS = 1, FRAME_LINK = 2, FRAME_SEGMENTS = 24, BEHIND = FRAME_SEGMENTS };
enum { MOST_FRAME_FLAGS = 7 };
/* cs 0x33, gs and fs 0, ss 0x2b (setup_sigcontext in arch/x86/kernel/signal_64.c). */
static const uint64_t SEGMENTS = 0x002b000000000033u;

static int is_frame(const uint64_t *segments)
{
    const uint64_t *frame = segments - FRAME_SEGMENTS;
    return *segments == SEGMENTS && frame[FRAME_FLAGS] <= MOST_FRAME_FLAGS && frame[FRAME_LINK] == 0;
}

/* struct pthread begins with its own address, and repeats it two words later (tcbhead_t in sysdeps/x86_64/nptl/tls.h). Other
 * data might look the same, so this may end a first look, not the one that counts. */
static int is_control_block(const uint64_t *third, uint64_t address)
{
    return *third == address - 2 * WORD && third[-2] == *third;
}

static int is_of_malloc(const as_trim_plan *plan, uint64_t address)
{
    return address - plan->allocator_start < plan->allocator_end - plan->allocator_start;
}

/* ended: in, whether a control block is the end; out, whether there was one. */
static int find_frame(const uint64_t *words, size_t first, size_t count, uint64_t address, int *ended)
{
    int may_end = *ended;
    *ended = 0;
    for (size_t i = first; i < count; i++) {
        if (i >= BEHIND && is_frame(words + i))
            return EINTR;
        if (may_end && i >= 2 && is_control_block(words + i, address + i * WORD)) {
            *ended = 1;
            return 0;
        }
    }
    return 0;
}

/* The bottom of the stack alone: words of malloc's code there. */
static int find_malloc(const uint64_t *words, size_t count, const as_trim_plan *plan)
{
    for (size_t i = 0; i < count && i < CLOSE_WORDS; i++)
        if (is_of_malloc(plan, words[i]))
            return EDEADLK;
    return 0;
}

static int look(int pid, int64_t call, uint64_t sp, uint64_t end, const as_trim_plan *plan, int until_control_block)
{
    uint64_t words[WORDS], bottom = sp & ~(WORD - 1ull), at = bottom;
    size_t first = 0; /* words before it were looked at in the round before */
    while (at < end) {
        if (at - bottom > MOST_STACK_BYTES)
            return E2BIG;
        int ended = until_control_block;
        size_t count = (end - at) / WORD < WORDS ? (end - at) / WORD : WORDS;
        int error = act_read(pid, at, words, count * WORD);
        if (!error && at == bottom && call == SYS_futex)
            error = find_malloc(words, count, plan);
        if (!error)
            error = find_frame(words, first, count, at, &ended);
        if (error || ended || count < WORDS)
            return error;
        at += (WORDS - BEHIND) * WORD;
        first = BEHIND;
    }
    return 0;
}

int as_look(int pid, int64_t call, uint64_t sp, uint64_t end, const as_trim_plan *plan)
{
    return look(pid, call, sp, end, plan, 1);
}

static int waited_in_listed_call(const as_trim_plan *plan, const struct user_regs_struct *regs)
{
    if (!act_is_interrupted((int64_t)regs->rax) || is_of_malloc(plan, regs->rip))
        return 0;
    for (size_t i = 0; i < plan->call_count; i++)
        if ((int64_t)regs->orig_rax == plan->calls[i])
            return 1;
    return 0;
}

/* The end of the stack that rsp is on: the control block of a thread that pthread_create made, else the end of the mapping. */
static uint64_t stack_end(const as_thread *thread, const struct user_regs_struct *regs)
{
    for (size_t i = 0; i < thread->stack_count; i++) {
        const as_stack *s = &thread->stacks[i];
        if (regs->rsp >= s->start && regs->rsp < s->end)
            return s->is_first ? s->end : regs->fs_base;
    }
    return regs->rsp;
}

static int wait_free(int pid, uint64_t lock, uint64_t until_ns)
{
    uint64_t begin = act_now_ns();
    for (;;) {
        uint32_t word;
        int error = act_read(pid, lock, &word, sizeof word);
        if (error || !word)
            return error;
        if (act_now_ns() > until_ns)
            return EBUSY;
        act_linger(begin);
    }
}

static int wait_all_free(const as_thread *thread, const as_trim_plan *plan)
{
    uint64_t until_ns = act_now_ns() + plan->lock_patience_ns, arena = plan->main_arena;
    if (until_ns > thread->deadline_ns)
        until_ns = thread->deadline_ns;
    for (int i = 0; i < MOST_ARENAS; i++) {
        int error = wait_free(thread->pid, arena, until_ns);
        if (!error)
            error = act_read(thread->pid, arena + plan->arena_next_offset, &arena, sizeof arena);
        if (error || arena == plan->main_arena)
            return error;
    }
    return ELOOP;
}

int act_vet(const as_thread *thread, const as_trim_plan *plan, const struct user_regs_struct *regs, as_outcome *how)
{
    uint64_t start;
    how->step = AS_AT_PLACE;
    if (!waited_in_listed_call(plan, regs))
        return EAGAIN;
    how->step = AS_AT_STACK;
    int error = act_stack_start(thread, regs, &start);
    if (error)
        return error;
    how->step = AS_AT_FRAMES;
    error = look(thread->pid, (int64_t)regs->orig_rax, regs->rsp, stack_end(thread, regs), plan, 0);
    if (error)
        return error;
    how->step = AS_AT_LOCKS;
    return wait_all_free(thread, plan);
}

#endif
