/* One thread that is in a restartable sequence (rseq(2)) half of the time, and knows whether one went on in which it must have
 * been aborted.
 *
 * While it runs inside, the kernel either leaves the descriptor's address in the thread's rseq area alone or aborts; only
 * a thread that came back to user code elsewhere finds it gone. So "wrong" counts the ends of sequences that find it gone.
 * Prints "ready", then counts for each line on stdin; ends at EOF. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/rseq.h>
#include <unistd.h>

enum { TURNS = 20000, LOOK_EVERY = 256 };

static unsigned long done, aborted, wrong;

/* 1 to 2: the sequence; 3: its descriptor; 4: where the kernel goes instead, behind glibc's signature. */
static void run_sequence(struct rseq *area)
{
    __asm__ goto(
        ".pushsection __rseq_cs, \"aw\"\n\t"
        ".balign 32\n"
        "3:\t.long 0, 0\n\t"
        ".quad 1f, 2f - 1f, 4f\n\t"
        ".popsection\n\t"
        "lea 3b(%%rip), %%rax\n\t"
        "mov %%rax, 8(%[area])\n"
        "1:\tmov %[turns], %%ecx\n"
        "5:\tdec %%ecx\n\t"
        "jnz 5b\n\t"
        "cmpq $0, 8(%[area])\n\t"
        "je %l[gone]\n"
        "2:\n\t"
        ".pushsection __rseq_failure, \"ax\"\n\t"
        ".byte 0x0f, 0xb9, 0x3d\n\t"
        ".long %c[signature]\n"
        "4:\tjmp %l[abort]\n\t"
        ".popsection"
        :
        : [area] "r"(area), [turns] "i"(TURNS), [signature] "i"(RSEQ_SIG)
        : "rax", "rcx", "memory", "cc"
        : abort, gone);
    done++;
    return;
abort:
    aborted++;
    return;
gone:
    wrong++;
}

static void elsewhere(void)
{
    for (volatile int turn = 0; turn < TURNS / 5; turn++)
        ;
}

int main(void)
{
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    if (!__rseq_size)
        return 2;
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    puts("ready");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < LOOK_EVERY; i++) {
            run_sequence(area);
            elsewhere();
        }
        char byte;
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got == 0)
            return 0;
        if (got == 1) {
            printf("{\"done\": %lu, \"aborted\": %lu, \"wrong\": %lu}\n", done, aborted, wrong);
            fflush(stdout);
        }
    }
}
