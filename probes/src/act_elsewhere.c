/* Machines for which no snapshot has been written: the interface is there, so that all the rest works, and refuses. */
#if !defined(__x86_64__)
#include "act.h"

#include <errno.h>

int as_freeze(const as_thread *thread, as_held *out, as_outcome *how)
{
    (void)thread;
    *out = (as_held){0};
    *how = (as_outcome){.step = AS_AT_SEIZE, .released = 1};
    return ENOSYS;
}

int as_shelter(const as_held *held, uint64_t lifetime_ns, uint64_t deadline_ns)
{
    (void)held, (void)lifetime_ns, (void)deadline_ns;
    return ENOSYS;
}

int as_kill(int pid, uint64_t deadline_ns)
{
    (void)pid, (void)deadline_ns;
    return ENOSYS;
}

int as_reap(const as_thread *thread, int inner_pid, as_outcome *how)
{
    (void)thread, (void)inner_pid;
    *how = (as_outcome){.step = AS_AT_SEIZE, .released = 1};
    return ENOSYS;
}

int as_make_twin(const as_held *held, const as_twin_plan *plan, uint64_t deadline_ns, int *pid, int *inner_pid,
                 uint8_t *held_locks, int *stderr_locked)
{
    (void)held, (void)plan, (void)deadline_ns, (void)held_locks;
    *pid = *inner_pid = *stderr_locked = 0;
    return ENOSYS;
}

int as_call_twin(const as_held *held, int pid, uint64_t function, uint64_t argument, uint64_t deadline_ns, as_called *called)
{
    (void)held, (void)pid, (void)function, (void)argument, (void)deadline_ns;
    *called = (as_called){0};
    return ENOSYS;
}

int as_end_twin(const as_held *held, int pid, int inner_pid, uint64_t deadline_ns)
{
    (void)held, (void)pid, (void)inner_pid, (void)deadline_ns;
    return ENOSYS;
}

int as_look(int pid, int64_t call, uint64_t sp, uint64_t end, const as_trim_plan *plan)
{
    (void)pid, (void)call, (void)sp, (void)end, (void)plan;
    return ENOSYS;
}

int as_trim(const as_thread *thread, const as_trim_plan *plan, as_outcome *how, uint64_t *duration_ns)
{
    (void)thread, (void)plan;
    *how = (as_outcome){.step = AS_AT_SEIZE, .released = 1};
    *duration_ns = 0;
    return ENOSYS;
}

#endif
