/* The snapshot A: a child that the target makes of itself and never learns of, and its end.
 *
 * A is traced by us with EXITKILL from its first stop on. It starts with every signal blocked and no handler, has exit signal
 * 0 (nobody is told of its end), and stands before exit_group, so whatever lets it run ends it. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int act_adopt(int pid, uint64_t deadline_ns)
{
    int error = act_wait_interrupted(pid, deadline_ns); /* how a child of a seized task begins */
    if (error)
        return error;
    const long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;
    return ptrace(PTRACE_SETOPTIONS, pid, 0, options) < 0 ? errno : 0;
}

int as_freeze(const as_thread *thread, as_held *out, as_outcome *how)
{
    const act_call clone = {.clones = 1};
    int error = act_borrow(thread, &clone, out, how);
    if (!out->pid)
        return error ? error : ECHILD;
    int adopted = act_adopt(out->pid, thread->deadline_ns);
    if (!error && adopted) {
        how->step = AS_AT_COPY;
        error = adopted;
    }
    return error;
}

/* A timer that no stop and no debugger holds up. The kernel's struct sigevent and struct itimerspec. */
static int limit_lifetime(const as_held *held, uint64_t lifetime_ns, uint64_t deadline_ns)
{
    struct { uint64_t value; int32_t signal, notify; uint64_t pad[6]; } event = {0, SIGKILL, SIGEV_SIGNAL, {0}};
    struct { uint64_t interval_s, interval_ns, value_s, value_ns; } time = {
        0, 0, lifetime_ns / 1000000000u, lifetime_ns % 1000000000u};
    uint64_t id_at = held->scratch + sizeof event;
    int32_t id;
    int64_t result;
    int error = act_write(held->pid, held->scratch, &event, sizeof event);
    if (error)
        return error;
    const uint64_t create[4] = {CLOCK_MONOTONIC, held->scratch, id_at, 0};
    error = act_call_in(held, SYS_timer_create, create, deadline_ns, &result, NULL);
    if (error)
        return error;
    error = act_read(held->pid, id_at, &id, sizeof id);
    if (!error)
        error = act_write(held->pid, held->scratch, &time, sizeof time);
    if (error)
        return error;
    const uint64_t set[4] = {(uint64_t)id, 0, held->scratch, 0};
    return act_call_in(held, SYS_timer_settime, set, deadline_ns, &result, NULL);
}

int as_shelter(const as_held *held, uint64_t lifetime_ns, uint64_t deadline_ns)
{
    const uint64_t none[4] = {0}, close_all[4] = {0, ~0u, CLOSE_RANGE_UNSHARE, 0};
    int64_t result;
    int error = act_call_in(held, SYS_close_range, close_all, deadline_ns, &result, NULL);
    if (error)
        return error;
    /* A stopped process in the target's group could bring that group a SIGHUP when its session ends. Not setsid: a session
     * is a scheduling group of its own (autogroup), in which a copy was seen to wait for a CPU for seconds. */
    error = act_call_in(held, SYS_setpgid, none, deadline_ns, &result, NULL);
    if (error)
        return error;
    /* 1 rather than 0: a core handler behind a pipe ignores 0. Refused where the hard limit is 0 and we have no privilege. */
    const struct rlimit no_core = {1, 1};
    prlimit(held->pid, RLIMIT_CORE, &no_core, NULL);
    return limit_lifetime(held, lifetime_ns, deadline_ns);
}

int as_kill(int pid, uint64_t deadline_ns)
{
    int status, error;
    if (kill(pid, SIGKILL) < 0)
        return errno;
    while (!(error = act_wait(pid, deadline_ns, &status)))
        ptrace(PTRACE_CONT, pid, 0, 0); /* a stop that was under way */
    return error == ESRCH ? 0 : error;
}

int as_reap(const as_thread *thread, int inner_pid, as_outcome *how)
{
    const act_call wait = {.number = SYS_wait4, .args = {(uint64_t)inner_pid, 0, __WALL | WNOHANG, 0}};
    as_held nobody;
    return act_borrow(thread, &wait, &nobody, how);
}

#endif
