/* Signal frames that nobody sent: rt_sigreturn turns one into a thread's complete state.
 *
 * Facts: struct rt_sigframe (arch/x86/include/asm/sigframe.h), restore_sigcontext (arch/x86/kernel/signal_64.c),
 * check_xstate_in_sigframe (arch/x86/kernel/fpu/signal.c). */
#if defined(__x86_64__)
#define _GNU_SOURCE
#include "act_internal.h"

#include <cpuid.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

struct frame {
    uint64_t return_address;
    uint64_t uc_flags, uc_link, altstack_sp;
    uint32_t altstack_flags, pad;
    uint64_t altstack_size;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2, fp_address, reserved[8];
    uint64_t mask;
    uint8_t siginfo[128];
};
_Static_assert(sizeof(struct frame) == FRAME_SIZE, "the kernel's size");
_Static_assert(offsetof(struct frame, fp_address) == 232 && offsetof(struct frame, mask) == 304, "the kernel's places");
_Static_assert(offsetof(struct frame, rdi) == FRAME_RDI_OFFSET, "where clone3 writes the child's number");

enum { UC_FP_XSTATE = 1, UC_SIGCONTEXT_SS = 2, UC_STRICT_RESTORE_SS = 4 };
/* No valid mode: sigreturn then leaves the thread's alternate stack as it is. */
enum { ALTSTACK_UNTOUCHED = 7 };

void act_frame(void *at, const struct user_regs_struct *regs, uint64_t mask, uint64_t fp_address, const as_code *code)
{
    struct frame *f = at;
    *f = (struct frame){
        .return_address = code->restorer,
        .uc_flags = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS | (fp_address ? UC_FP_XSTATE : 0),
        .altstack_flags = ALTSTACK_UNTOUCHED,
        .r8 = regs->r8, .r9 = regs->r9, .r10 = regs->r10, .r11 = regs->r11,
        .r12 = regs->r12, .r13 = regs->r13, .r14 = regs->r14, .r15 = regs->r15,
        .rdi = regs->rdi, .rsi = regs->rsi, .rbp = regs->rbp, .rbx = regs->rbx,
        .rdx = regs->rdx, .rax = regs->rax, .rcx = regs->rcx, .rsp = regs->rsp,
        .rip = regs->rip, .eflags = regs->eflags,
        .cs = (uint16_t)regs->cs, .ss = (uint16_t)regs->ss,
        .fp_address = fp_address,
        .mask = mask,
    };
}

/* Where things are in an XSAVE image, and the words by which the kernel knows one in a frame. */
enum {
    SOFTWARE_BYTES = 464, HEADER = 512, FIRST_EXTENDED = 576,
    FEATURE_PKRU = 9, FEATURE_TILE_DATA = 18, LAST_FEATURE = 62,
    MAGIC_FIRST = 0x46505853, MAGIC_LAST = 0x46505845
};

static size_t image_size(uint64_t features)
{
    size_t size = FIRST_EXTENDED;
    for (uint32_t i = 2; i <= LAST_FEATURE; i++) {
        uint32_t length, offset, c, d;
        if (!(features >> i & 1))
            continue;
        __cpuid_count(0xd, i, length, offset, c, d);
        if (offset + length > size)
            size = offset + length;
    }
    return size;
}

int act_frame_xstate(act_state *state, size_t *size)
{
    uint8_t *image = state->xstate;
    uint64_t features, in_use;
    if (state->xstate_size < FIRST_EXTENDED)
        return ENODEV;
    memcpy(&features, image + SOFTWARE_BYTES, sizeof features);
    memcpy(&in_use, image + HEADER, sizeof in_use);
    /* Tiles are 8 KiB and may only be named by a task that was given them. */
    if (!(in_use >> FEATURE_TILE_DATA & 1))
        features &= ~(1ull << FEATURE_TILE_DATA);
    *size = image_size(features);
    if (*size > state->xstate_size)
        return ENODEV;
    struct { uint32_t magic, extended_size; uint64_t features; uint32_t size, pad[7]; } software = {
        MAGIC_FIRST, (uint32_t)*size + sizeof(uint32_t), features, (uint32_t)*size, {0}};
    _Static_assert(sizeof software == HEADER - SOFTWARE_BYTES, "the software bytes");
    memcpy(image + SOFTWARE_BYTES, &software, sizeof software);
    /* A component that is not marked as in use is initialised; for PKRU that would not be the value it has. */
    in_use = (in_use | 1u << FEATURE_PKRU) & features;
    memcpy(image + HEADER, &in_use, sizeof in_use);
    uint32_t last = MAGIC_LAST;
    memcpy(image + *size, &last, sizeof last);
    return 0;
}

/* Errors by which an interrupted call says how it wants to be restarted (include/linux/errno.h). */
enum { RESTART_SYS = -512, RESTART_NO_INTR = -513, RESTART_NO_HAND = -514, RESTART_BLOCK = -516 };

/* restart_syscall would need the restart block, which rt_sigreturn clears: find the number of the call it stands for. */
static long restarted_number(int pid, uint64_t rip)
{
    uint8_t code[7]; /* mov $number, eax; syscall */
    uint32_t number;
    if (act_read(pid, rip - sizeof code, code, sizeof code) || code[0] != 0xb8 || code[5] != 0x0f || code[6] != 0x05)
        return -1;
    memcpy(&number, code + 1, sizeof number);
    return number == SYS_restart_syscall ? -1 : (long)number;
}

int act_is_interrupted(int64_t result)
{
    return result == -EINTR || result == RESTART_SYS || result == RESTART_NO_INTR || result == RESTART_NO_HAND ||
           result == RESTART_BLOCK;
}

void act_resume_regs(int pid, const act_state *state, struct user_regs_struct *out)
{
    long number = (long)state->regs.orig_rax, result = (long)state->regs.rax;
    *out = state->regs;
    if (number < 0)
        return;
    if (result == RESTART_BLOCK && number == SYS_restart_syscall) {
        number = restarted_number(pid, state->regs.rip);
        if (number < 0) {
            out->rax = (uint64_t)-EINTR;
            return;
        }
    } else if (result != RESTART_SYS && result != RESTART_NO_INTR && result != RESTART_NO_HAND && result != RESTART_BLOCK) {
        return;
    }
    out->rax = (uint64_t)number;
    out->rip -= 2;
}

#endif
