/* The chain: what is put below the red zone of a stopped thread, so that a system call leads back by itself.
 *
 * From the stack pointer S downwards: the FP state, F1 (the original state), and for a clone F3 (the child's frame:
 * exit_group), the arguments of clone3, F2 (the orphan's: wait4 for its own child, then F1). Each frame's first word is the
 * restorer, so a `ret` with rsp at a frame becomes that frame. A plain call returns to F1 at once; the parent of a clone
 * returns to F2, its child to F3. A tracer that is alive never lets any of them run. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { CHILD_STACK = 64, SPARE_ROOM = 2048 };
/* What F2 waits for until the kernel has put a child's number there: nobody. */
static const uint64_t NO_CHILD = 0x80000000u;

uint64_t act_frame_below(uint64_t address)
{
    return ((address - FRAME_SIZE) & ~15ull) - 8; /* as the kernel aligns them: 8 modulo 16 */
}

int act_stack_start(const as_thread *thread, const struct user_regs_struct *regs, uint64_t *start)
{
    for (size_t i = 0; i < thread->stack_count; i++) {
        const as_stack *s = &thread->stacks[i];
        if (regs->rsp < s->start || regs->rsp >= s->end)
            continue;
        if (!s->is_first && (regs->fs_base < regs->rsp || regs->fs_base >= s->end))
            return ENOSPC;
        *start = s->start;
        return 0;
    }
    return ENOSPC;
}

static void *at(act_chain *chain, uint64_t address)
{
    return chain->bytes + (address - chain->low);
}

static void put_clone(const as_thread *thread, const act_state *state, act_chain *chain, uint64_t first, uint64_t child,
                      uint64_t args, uint64_t second)
{
    const uint64_t collect[4] = {NO_CHILD, 0, __WALL, 0}, leave[4] = {0};
    struct user_regs_struct regs = act_call_regs(&state->regs, &thread->code, first, SYS_wait4, collect);
    act_frame(at(chain, second), &regs, ALL_SIGNALS, 0, &thread->code);
    regs = act_call_regs(&state->regs, &thread->code, child, SYS_exit_group, leave);
    act_frame(at(chain, child), &regs, ALL_SIGNALS, 0, &thread->code);
    chain->child_word = second + FRAME_RDI_OFFSET;
    struct clone_args clone = {
        .flags = CLONE_FILES | CLONE_PARENT_SETTID | CLONE_CLEAR_SIGHAND,
        .parent_tid = chain->child_word,
        .exit_signal = 0,
        .stack = child - CHILD_STACK,
        .stack_size = CHILD_STACK,
    };
    memcpy(at(chain, args), &clone, sizeof clone);
    const uint64_t call[4] = {args, sizeof clone, 0, 0};
    chain->start = act_call_regs(&state->regs, &thread->code, second, SYS_clone3, call);
}

int act_build_chain(const as_thread *thread, const act_call *call, act_state *state, act_chain *chain)
{
    uint64_t bottom = 0, top = state->regs.rsp - RED_ZONE;
    struct user_regs_struct resumed;
    size_t fp_size;
    act_resume_regs(thread->pid, state, &resumed);
    int error = act_frame_xstate(state, &fp_size);
    if (error)
        return error;
    uint64_t fp = (top - fp_size - sizeof(uint32_t)) & ~63ull;
    uint64_t first = act_frame_below(fp), child = 0, args = 0, second = 0;
    chain->low = first;
    if (call->clones) {
        child = act_frame_below(first);
        args = (child - CHILD_STACK - sizeof(struct clone_args)) & ~15ull;
        second = act_frame_below(args);
        chain->low = second;
    }
    chain->size = top - chain->low;
    chain->scratch = fp;
    if (chain->size > sizeof chain->bytes)
        return ENOSPC;
    error = act_stack_start(thread, &state->regs, &bottom);
    if (error || chain->low < bottom + SPARE_ROOM)
        return ENOSPC;
    memset(chain->bytes, 0, chain->size);
    memcpy(at(chain, fp), state->xstate, fp_size + sizeof(uint32_t));
    act_frame(at(chain, first), &resumed, state->mask, fp, &thread->code);
    if (call->clones)
        put_clone(thread, state, chain, first, child, args, second);
    else
        chain->start = act_call_regs(&state->regs, &thread->code, first, call->number, call->args);
    return 0;
}

#endif
