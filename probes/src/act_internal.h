/* What the act_*.c modules share. Nothing here is seen by Python. */
#ifndef ALLOCSCOPE_ACT_INTERNAL_H
#define ALLOCSCOPE_ACT_INTERNAL_H

#include "act.h"

#include <sys/types.h>
#include <sys/user.h>

enum { XSTATE_CAPACITY = 16384, CHAIN_CAPACITY = 24576, RED_ZONE = 128 };
static const uint64_t ALL_SIGNALS = ~0ull;

/* What a thread is made of, as far as a system call and a signal frame can disturb it. */
typedef struct act_state {
    struct user_regs_struct regs;
    uint64_t mask;
    size_t xstate_size;
    uint8_t xstate[XSTATE_CAPACITY] __attribute__((aligned(64)));
} act_state;

/* act_trace.c: ptrace, each call with its error as an errno. */
uint64_t act_now_ns(void);
/* Lets a moment pass, the longer the more time has passed since begin_ns: see act_trace.c. */
void act_linger(uint64_t begin_ns);
/* Sleeps so many nanoseconds, within reason. */
void act_nap(uint64_t ns);
/* The next stop or end of a task that we trace. ESRCH: it ended (or is none of ours); ETIMEDOUT. */
int act_wait(int tid, uint64_t deadline_ns, int *status);
/* Waits for the stop that PTRACE_INTERRUPT asked for; signals that come first are handed on. */
int act_wait_interrupted(int tid, uint64_t deadline_ns);
/* Detaches, after this error; 1 when nothing of it is traced any more. A thread that has died meanwhile is collected: until
 * its tracer has done that, an execve of its process waits. */
int act_let_go(int tid, int error);
int act_get_regs(int tid, struct user_regs_struct *regs);
int act_set_regs(int tid, const struct user_regs_struct *regs);
int act_get_state(int tid, act_state *state);
int act_set_mask(int tid, const uint64_t *mask);
/* The image may be one that act_frame_xstate has worked on. */
int act_set_xstate(int tid, act_state *state);
int act_in_rseq(int tid, uint64_t rip, int *inside);
/* Do system calls of this thread raise SIGSYS (as in Wine)? One that is made for us could then kill it. */
int act_dispatches_calls(int tid);
int act_is_event(int status, int event);
int act_is_syscall_stop(int status);
/* The signal to hand on when a task is resumed from this stop; 0 for stops that are no signal. */
long act_signal_of(int status);
int act_read(int pid, uint64_t address, void *buffer, size_t size);
int act_write(int pid, uint64_t address, const void *buffer, size_t size);
/* Registers that make system call number with up to four arguments, then return to what rsp points at. */
struct user_regs_struct act_call_regs(const struct user_regs_struct *now, const as_code *code, uint64_t rsp, long number,
                                      const uint64_t args[4]);

/* act_frame.c: signal frames as the kernel reads them in rt_sigreturn. */
enum { FRAME_SIZE = 440, FRAME_RDI_OFFSET = 112 };
void act_frame(void *at, const struct user_regs_struct *regs, uint64_t mask, uint64_t fp_address, const as_code *code);
/* Turns a register set of NT_X86_XSTATE into the FP part of a frame, in place; size: how long it is, without the magic word
 * after it, which is included in the copy. */
int act_frame_xstate(act_state *state, size_t *size);
/* Is this what a system call returns that was interrupted while it waited? */
int act_is_interrupted(int64_t result);
/* The registers with which a thread has to go on by itself: the kernel's rules for interrupted calls, done by hand. */
void act_resume_regs(int pid, const act_state *state, struct user_regs_struct *out);

/* act_chain.c: the frames of one call on the stack, and the registers that start it. */
typedef struct act_call {
    int clones;       /* clone3; else number and args count */
    long number;
    uint64_t args[4];
} act_call;

typedef struct act_chain {
    struct user_regs_struct start;
    uint64_t low, child_word, scratch; /* child_word: where the kernel writes the child's number */
    size_t size;
    uint8_t bytes[CHAIN_CAPACITY] __attribute__((aligned(16)));
} act_chain;

int act_build_chain(const as_thread *thread, const act_call *call, act_state *state, act_chain *chain);
/* Where a frame that ends at or below this address begins. */
uint64_t act_frame_below(uint64_t address);
/* The lower end of the stack that rsp is on; ENOSPC if what it points into is not known to be one. */
int act_stack_start(const as_thread *thread, const struct user_regs_struct *regs, uint64_t *start);

/* act_hold.c: a stopped thread, and the memory that is needed while it is. */
typedef struct act_work {
    act_state before;
    act_chain chain;
} act_work;

act_work *act_work_open(void);
void act_work_close(act_work *work);
/* Stops a seized thread outside of restartable sequences, reads its state and makes sure of the code that a chain uses. */
int act_hold(const as_thread *thread, act_state *state, as_outcome *how);
/* EILSEQ: these are not the bytes at that address. */
int act_same_code(int pid, uint64_t address, const void *code, size_t size);

/* act_vet.c: may this stopped thread be made to call malloc_trim? See as_trim. */
int act_vet(const as_thread *thread, const as_trim_plan *plan, const struct user_regs_struct *regs, as_outcome *how);

/* act_borrow.c: one call by a thread of the target. out->pid and inner_pid are set by a clone. */
int act_borrow(const as_thread *thread, const act_call *call, as_held *out, as_outcome *how);

/* act_copy.c: a call by a process of ours. events: *child gets the pid of a clone's child. */
int act_call_in(const as_held *held, long number, const uint64_t args[4], uint64_t deadline_ns, int64_t *result, int *child);
/* Waits until a child that came to us by a clone event stands still, and ties its life to ours. */
int act_adopt(int pid, uint64_t deadline_ns);

#endif
