/* System calls made by a copy of ours, and B: the copy of the copy, in which functions are called, by a debugger or by us.
 *
 * B is A's child, not the target's: a stop of a direct child would send the target SIGCHLD. It is made ready while we trace
 * it. For a debugger, which must be its only tracer, it is then stopped by a signal and let go. */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TWIN_STACK = 1 << 20 };

int act_call_in(const as_held *held, long number, const uint64_t args[4], uint64_t deadline_ns, int64_t *result, int *child)
{
    int pid = held->pid, exits = 0, status;
    struct user_regs_struct regs;
    int error = act_get_regs(pid, &regs);
    if (error)
        return error;
    regs = act_call_regs(&regs, &held->code, regs.rsp, number, args);
    error = act_set_regs(pid, &regs);
    if (error)
        return error;
    while (exits < 2) {
        if (ptrace(PTRACE_SYSCALL, pid, 0, 0) < 0)
            return errno;
        error = act_wait(pid, deadline_ns, &status);
        if (error)
            return error;
        exits += act_is_syscall_stop(status);
        if (child && act_is_event(status, PTRACE_EVENT_CLONE)) {
            unsigned long message = 0;
            ptrace(PTRACE_GETEVENTMSG, pid, 0, &message);
            *child = (int)message;
        }
    }
    error = act_get_regs(pid, &regs);
    if (error)
        return error;
    *result = (int64_t)regs.rax;
    return *result < 0 && *result >= -4095 ? (int)-*result : 0;
}

/* Room of B's own for the stack of what it is asked to call: the thread's own stack may be nearly used up. */
static int give_stack(as_held *twin, uint64_t deadline_ns)
{
    /* mmap takes six arguments; the fifth and sixth (descriptor, offset) are not looked at for anonymous memory. */
    const uint64_t map[4] = {0, TWIN_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE};
    int64_t address;
    int error = act_call_in(twin, SYS_mmap, map, deadline_ns, &address, NULL);
    if (!error)
        twin->scratch = (uint64_t)address;
    return error;
}

/* An empty file in memory as descriptor 2, where stderr writes. Its table is empty, so the file arrives at 0. */
static int give_output(const as_held *twin, uint64_t deadline_ns)
{
    static const char name[] = "allocscope";
    int64_t fd, result;
    int error = act_write(twin->pid, twin->scratch, name, sizeof name);
    if (error)
        return error;
    const uint64_t create[4] = {twin->scratch, 0, 0, 0};
    error = act_call_in(twin, SYS_memfd_create, create, deadline_ns, &fd, NULL);
    if (error)
        return error;
    const uint64_t move[4] = {(uint64_t)fd, STDERR_FILENO, 0, 0}, drop[4] = {(uint64_t)fd, 0, 0, 0};
    error = act_call_in(twin, SYS_dup2, move, deadline_ns, &result, NULL);
    return error ? error : act_call_in(twin, SYS_close, drop, deadline_ns, &result, NULL);
}

static int open_locks(int pid, const as_twin_plan *plan, uint8_t *held_locks)
{
    const uint32_t free_word = 0;
    for (size_t i = 0; i < plan->lock_count; i++) {
        uint32_t word;
        int error = act_read(pid, plan->locks[i], &word, sizeof word);
        if (error)
            return error;
        held_locks[i] = word != 0;
        if (word)
            error = act_write(pid, plan->locks[i], &free_word, sizeof free_word);
        if (error)
            return error;
    }
    return 0;
}

/* glibc's FILE (libio/bits/types/struct_FILE.h, 64-bit; the same from 2.2 to 2.44): an unbuffered, empty, unlocked stream. */
static int reset_stderr(int pid, const as_twin_plan *plan, int *locked)
{
    enum { FLAGS = 0, POINTERS = 8, POINTERS_END = 0x60, FILENO = 0x70, LOCK = 0x88, OFFSET = 0x90, MODE = 0xc0, SIZE = 0xd8 };
    /* _IO_MAGIC | _IO_IS_FILEBUF | _IO_UNBUFFERED | _IO_NO_READS | the two user bits that libc's own stderr starts with */
    const uint32_t flags = 0xfbad2087, descriptor = STDERR_FILENO;
    uint8_t file[SIZE];
    uint64_t lock, free_lock[2] = {0, 0};
    uint32_t word;
    if (!plan->stderr_variable || !plan->stderr_file)
        return 0;
    int error = act_read(pid, plan->stderr_file, file, sizeof file);
    if (error)
        return error;
    memcpy(&lock, file + LOCK, sizeof lock);
    memcpy(file + FLAGS, &flags, sizeof flags);
    memset(file + POINTERS, 0, POINTERS_END - POINTERS);
    memcpy(file + FILENO, &descriptor, sizeof descriptor);
    memset(file + OFFSET, 0xff, sizeof(uint64_t));
    memset(file + MODE, 0, sizeof(uint32_t));
    error = act_write(pid, plan->stderr_file, file, sizeof file);
    if (!error)
        error = act_write(pid, plan->stderr_variable, &plan->stderr_file, sizeof plan->stderr_file);
    if (!error)
        error = act_read(pid, lock, &word, sizeof word);
    if (error)
        return error;
    *locked = word != 0;
    return act_write(pid, lock, free_lock, sizeof free_lock);
}

/* fork undoes mlock. Locked on fault: nothing is read in or copied for it. */
static int lock_memory(const as_held *twin, const as_twin_plan *plan, uint64_t deadline_ns)
{
    for (size_t i = 0; i + 1 < plan->mlocked_count; i += 2) {
        const uint64_t *span = plan->mlocked + i;
        const uint64_t lock[4] = {span[0], span[1] - span[0], MLOCK_ONFAULT, 0};
        int64_t result;
        int error = act_call_in(twin, SYS_mlock2, lock, deadline_ns, &result, NULL);
        if (error)
            return error;
    }
    return 0;
}

/* Whatever lets it run makes it exit; a debugger's calls find a whole stack below. */
static int stand_before_exit(const as_held *twin)
{
    const uint64_t status[4] = {0}, no_signals = 0;
    struct user_regs_struct regs;
    int error = act_get_regs(twin->pid, &regs);
    if (error)
        return error;
    regs = act_call_regs(&regs, &twin->code, twin->scratch + TWIN_STACK - 4096, SYS_exit_group, status);
    error = act_set_mask(twin->pid, &no_signals);
    return error ? error : act_set_regs(twin->pid, &regs);
}

static int prepare_twin(as_held *twin, const as_twin_plan *plan, uint64_t deadline_ns, uint8_t *held_locks,
                        int *stderr_locked)
{
    const uint64_t die_with_parent[4] = {PR_SET_PDEATHSIG, SIGKILL, 0, 0};
    int64_t result;
    int error = act_adopt(twin->pid, deadline_ns);
    if (!error)
        error = act_call_in(twin, SYS_prctl, die_with_parent, deadline_ns, &result, NULL);
    if (!error)
        error = give_stack(twin, deadline_ns);
    if (!error)
        error = as_shelter(twin, plan->lifetime_ns, deadline_ns);
    if (!error)
        error = give_output(twin, deadline_ns);
    if (!error)
        error = open_locks(twin->pid, plan, held_locks);
    if (!error)
        error = reset_stderr(twin->pid, plan, stderr_locked);
    if (!error)
        error = lock_memory(twin, plan, deadline_ns);
    return error ? error : stand_before_exit(twin);
}

int as_make_twin(const as_held *held, const as_twin_plan *plan, uint64_t deadline_ns, int *pid, int *inner_pid,
                 uint8_t *held_locks, int *stderr_locked)
{
    const uint64_t plain[4] = {0};
    int64_t result = 0;
    *pid = *inner_pid = *stderr_locked = 0;
    int error = act_call_in(held, SYS_clone, plain, deadline_ns, &result, pid);
    *inner_pid = (int)result;
    if (error)
        return error;
    as_held twin = {*pid, *inner_pid, held->code, held->scratch};
    error = prepare_twin(&twin, plan, deadline_ns, held_locks, stderr_locked);
    if (error || plan->keep)
        return error;
    if (kill(twin.pid, SIGSTOP) < 0 || ptrace(PTRACE_DETACH, twin.pid, 0, 0) < 0)
        return errno;
    /* A, its parent, sees it stand still. */
    const uint64_t wait_stopped[4] = {(uint64_t)*inner_pid, 0, __WALL | WUNTRACED, 0};
    return act_call_in(held, SYS_wait4, wait_stopped, deadline_ns, &result, NULL);
}

/* B stands before exit_group, on the stack that it was given. The function returns into that stack, which holds no code: the
 * fault is how its return is noticed. */
int as_call_twin(const as_held *held, int pid, uint64_t function, uint64_t argument, uint64_t deadline_ns, as_called *called)
{
    const uint64_t arguments[4] = {argument};
    struct user_regs_struct regs;
    int status;
    *called = (as_called){0};
    int error = act_get_regs(pid, &regs);
    if (error)
        return error;
    const uint64_t back = regs.rsp, entry = back - sizeof back;
    regs = act_call_regs(&regs, &held->code, entry, 0, arguments);
    regs.rip = function;
    error = act_write(pid, entry, &back, sizeof back);
    if (!error)
        error = act_set_regs(pid, &regs);
    if (error)
        return error;
    uint64_t begin = act_now_ns();
    if (ptrace(PTRACE_CONT, pid, 0, 0) < 0)
        return errno;
    error = act_wait(pid, deadline_ns, &status);
    called->duration_ns = act_now_ns() - begin;
    if (!error)
        error = act_get_regs(pid, &regs);
    if (error)
        return error;
    called->result = (int64_t)regs.rax;
    if (regs.rip == back && regs.rsp == back && WSTOPSIG(status) == SIGSEGV)
        return 0;
    called->signal = WSTOPSIG(status);
    return ECANCELED;
}

int as_end_twin(const as_held *held, int pid, int inner_pid, uint64_t deadline_ns)
{
    const uint64_t collect[4] = {(uint64_t)inner_pid, 0, __WALL, 0};
    int64_t result;
    int status;
    if (kill(pid, SIGKILL) < 0)
        return errno;
    /* Where we trace it ourselves (it was kept, or its making failed) its end must be seen here first. */
    if (waitpid(pid, &status, __WALL | WNOHANG) >= 0) {
        int error = as_kill(pid, deadline_ns);
        if (error)
            return error;
    }
    return act_call_in(held, SYS_wait4, collect, deadline_ns, &result, NULL);
}

#endif
