/* Acting on a process that must never be owed anything: the crash-only copy-on-write snapshot, and malloc_trim made by the
 * process itself. x86-64 Linux.
 *
 * Strategy: a thread of the target is stopped for as long as one clone3 takes. It makes that call by itself, standing on
 * genuine signal frames on its own stack, and would find its way back by rt_sigreturn if we were killed at any instant. The
 * child, the copy A, never runs an instruction of the target: we trace it and it dies with us. What must run (gdb's calls)
 * runs in B, a copy of A.
 *
 * Rules: ptrace belongs to a thread, so all calls about one target come from one thread, with all signals blocked. When
 * as_outcome.released is 0 a thread of the target is still attached (it would not stop, or its call outlasted the deadline):
 * only the end of the calling thread lets it go. Functions return 0 or an errno; deadlines are CLOCK_MONOTONIC, in ns. */
#ifndef ALLOCSCOPE_ACT_H
#define ALLOCSCOPE_ACT_H

#include <stddef.h>
#include <stdint.h>

/* Code that the target has already, as addresses in its memory. */
typedef struct as_code {
    uint64_t syscall_return; /* 0f 05 c3: syscall; ret */
    uint64_t restorer;       /* what a signal handler returns to: mov $15, rax; syscall */
} as_code;

/* A writable mapping [start, end) in which a stack may lie. The first stack of the process is known by name; any other one
 * counts as a stack only if the thread's control block lies in it, above the stack pointer, as with pthreads. */
typedef struct as_stack {
    uint64_t start, end;
    uint64_t is_first;
} as_stack;

/* The thread that is to make a call for us. stacks are sorted by start. */
typedef struct as_thread {
    int pid, tid;
    as_code code;
    const as_stack *stacks;
    size_t stack_count;
    uint64_t deadline_ns;
} as_thread;

/* How far it came. Up to AS_AT_WRITE nothing of the target was changed but memory below its stack's red zone. */
enum {
    AS_AT_SEIZE = 1,   /* EPERM, ESRCH */
    AS_AT_STOP = 2,    /* ETIMEDOUT: the thread did not stop; EBUSY: never outside a restartable sequence */
    AS_AT_STATE = 3,   /* ENOEXEC: it runs 32-bit code; EOPNOTSUPP: its system calls are dispatched to itself */
    AS_AT_CODE = 4,    /* EILSEQ: its memory does not hold the code that its file has */
    AS_AT_STACK = 5,   /* ENOSPC: not a stack, or no room on it */
    AS_AT_WRITE = 6,   /* the frames could not be written */
    AS_AT_CALL = 7,    /* ETIMEDOUT, ESRCH; or the system call's own errno */
    AS_AT_RESTORE = 8,
    AS_AT_COPY = 9,   /* the copy did not arrive */
    AS_AT_END = 10,
    AS_AT_PLACE = 11,   /* EAGAIN: the thread did not wait in one of the plan's calls any more */
    AS_AT_FRAMES = 12,  /* EDEADLK: it waits for a lock of malloc's; EINTR: in a signal handler; E2BIG: too deep to tell */
    AS_AT_LOCKS = 13,   /* EBUSY: the lock of some arena was never seen free */
    AS_AT_FUNCTION = 14 /* ETIMEDOUT: malloc_trim goes on by itself; ESRCH */
};

typedef struct as_outcome {
    int step;
    int released;
    uint64_t pause_ns; /* from the request to stop until the thread was let go */
    int64_t result;    /* what the system call returned */
} as_outcome;

/* A process that we trace and that never runs by itself. pid is ours to use, inner_pid its parent's name for it (they differ
 * across pid namespaces). scratch: 512 bytes of its memory that hold nothing. */
typedef struct as_held {
    int pid, inner_pid;
    as_code code;
    uint64_t scratch;
} as_held;

/* Makes the copy A. When out->inner_pid is not 0 a child of the target exists, error or not, and is owed as_kill and as_reap. */
int as_freeze(const as_thread *thread, as_held *out, as_outcome *how);
/* Takes A out of what it shares with the target, descriptors and process group; lets it live for at most lifetime_ns; forbids
 * core dumps. */
int as_shelter(const as_held *held, uint64_t lifetime_ns, uint64_t deadline_ns);
/* Kills what we trace and sees it dead. It stays a zombie of its parent. */
int as_kill(int pid, uint64_t deadline_ns);
/* Makes the target collect its child inner_pid, which is dead. ECHILD: it was none of its children. */
int as_reap(const as_thread *thread, int inner_pid, as_outcome *how);

/* What the copy B of A has to be like. A lock word is 4 bytes; held[i] tells whether it was not 0. stderr_variable and
 * stderr_file may be 0: then the stream is left alone. mlocked: start, end, start, end, …: what is mlocked in the target, and
 * is to be so in B. keep: B stays traced by us, for as_call_twin; else it is let go, for a debugger. */
typedef struct as_twin_plan {
    uint64_t lifetime_ns;
    const uint64_t *locks;
    size_t lock_count;
    uint64_t stderr_variable, stderr_file;
    const uint64_t *mlocked;
    size_t mlocked_count;
    uint64_t keep;
} as_twin_plan;

/* Makes B: stopped, gone when A goes; descriptor 2 is an empty memfd, its only one; it exits if anything lets it run. When
 * *pid is not 0, B exists and is owed as_end_twin, error or not. */
int as_make_twin(const as_held *held, const as_twin_plan *plan, uint64_t deadline_ns, int *pid, int *inner_pid,
                 uint8_t *held_locks, int *stderr_locked);
typedef struct as_called {
    int64_t result;       /* what the function returned */
    uint64_t duration_ns; /* from its start until it was seen to have returned */
    int signal;           /* by which it failed, 0 if it did not */
} as_called;

/* Makes B, which was kept, call a function of one argument, once, on a stack of its own. ECANCELED: it failed, by
 * called->signal; ETIMEDOUT: it has not returned; ESRCH: B has ended. In each case B is good for nothing any more. */
int as_call_twin(const as_held *held, int pid, uint64_t function, uint64_t argument, uint64_t deadline_ns, as_called *called);
/* Kills B and makes A collect it. ETIMEDOUT: some tracer still holds it. */
int as_end_twin(const as_held *held, int pid, int inner_pid, uint64_t deadline_ns);

/* What as_trim needs to know. Addresses are those of the target; pop_*: 5f c3, 5e c3, 58 c3; store_eax: 89 07 c3, or
 * 89 47 d c3 for a displacement d. Calls are numbers of system calls in which malloc never waits, but for futex. A lock is the first word of an arena. */
typedef struct as_trim_plan {
    uint64_t function, pad_bytes;
    uint64_t pop_rdi, pop_rsi, pop_rax, store_eax;
    int64_t store_displacement;
    uint64_t errno_offset;                     /* from the thread's control block; wraps around */
    uint64_t allocator_start, allocator_end;   /* where malloc's code lies */
    uint64_t main_arena, arena_next_offset;
    const int32_t *calls;
    size_t call_count;
    uint64_t lock_patience_ns; /* how long the thread may be kept for a lock of another */
    int signal;                /* ignored by default, neither handled nor blocked: it tells us that the call is done */
    int inner_tid;             /* the thread's number in its own pid namespace */
} as_trim_plan;

/* The stack of a thread that waits in this system call, from sp to the thread's control block or end: is it that of a signal
 * handler, or of malloc? Stops nothing. 0, or as at AS_AT_FRAMES. */
int as_look(int pid, int64_t call, uint64_t sp, uint64_t end, const as_trim_plan *plan);
/* Makes the thread call malloc_trim(pad_bytes); how->result is what that returned, duration_ns how long it took. All other
 * threads go on. Up to AS_AT_WRITE, and at AS_AT_PLACE, FRAMES and LOCKS, the thread was only stopped and let go. */
int as_trim(const as_thread *thread, const as_trim_plan *plan, as_outcome *how, uint64_t *duration_ns);

#endif
