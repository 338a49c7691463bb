/* A program that notices when something is done to it.
 *
 * Every worker goes round and round in one kind of wait or work and checks what it gets back: registers, FP control words, errno,
 * time-outs, data. SIGCHLD is counted. Protocol: one JSON line when ready; for every line on stdin one JSON line of counts,
 * as soon as each worker has gone round twice more; a line that begins with "exec" starts the program anew (and it is ready
 * again); end at EOF. --stderr-held: the main thread holds the lock of stderr, which has unwritten text.
 *
 * usage: steady [--single] [--subreaper] [--stderr-held] [--mib N] */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct worker {
    const char *name;
    void (*round)(struct worker *);
    atomic_long rounds, errors, eintrs;
    atomic_int tid;
} worker;

atomic_long beat; /* the test reads it in the snapshot and here */
static atomic_long sigchlds;
static int pipe_ends[2];

static void expect(worker *w, int holds)
{
    if (!holds)
        atomic_fetch_add(&w->errors, 1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A wait that should end with `result`, after at least `least_ns`, and leave errno alone if it succeeds. */
static void expect_wait(worker *w, long got, long result, int error, uint64_t begin, uint64_t least_ns)
{
    if (got < 0 && error == EINTR) {
        atomic_fetch_add(&w->eintrs, 1);
        return;
    }
    expect(w, got == result && error == 77 && now_ns() - begin + 500000 >= least_ns);
}

static void round_nanosleep(worker *w)
{
    const struct timespec span = {0, 4000000};
    uint64_t begin = now_ns();
    errno = 77;
    long got = nanosleep(&span, NULL);
    expect_wait(w, got, 0, errno, begin, 4000000);
}

static void round_poll(worker *w)
{
    uint64_t begin = now_ns();
    errno = 77;
    long got = poll(NULL, 0, 3);
    expect_wait(w, got, 0, errno, begin, 3000000);
}

static void round_epoll(worker *w)
{
    static __thread int set = -1;
    struct epoll_event event;
    if (set < 0)
        set = epoll_create1(EPOLL_CLOEXEC);
    uint64_t begin = now_ns();
    errno = 77;
    long got = epoll_wait(set, &event, 1, 3);
    expect_wait(w, got, 0, errno, begin, 3000000);
}

static void round_futex(worker *w)
{
    static uint32_t word;
    const struct timespec span = {0, 3000000};
    uint64_t begin = now_ns();
    long got = syscall(SYS_futex, &word, 128 /* FUTEX_WAIT_PRIVATE */, 0, &span, NULL, 0);
    int error = errno;
    if (got < 0 && error == ETIMEDOUT)
        expect(w, now_ns() - begin + 500000 >= 3000000);
    else if (got < 0 && error == EINTR)
        atomic_fetch_add(&w->eintrs, 1);
    else
        expect(w, 0);
}

static void round_read(worker *w)
{
    static uint64_t expected;
    uint64_t got = 0;
    errno = 77;
    ssize_t size = read(pipe_ends[0], &got, sizeof got);
    expect(w, size == sizeof got && errno == 77 && got == expected++);
}

static void round_malloc(worker *w)
{
    static unsigned char *block[256];
    static size_t size[256];
    static uint64_t seed = 1, number;
    for (int i = 0; i < 500; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int k = (int)(seed >> 33) % 256;
        for (size_t j = 0; block[k] && j < size[k]; j++)
            if (block[k][j] != (unsigned char)k) {
                expect(w, 0);
                break;
            }
        free(block[k]);
        size[k] = (seed >> 44) % 3000 + 1;
        block[k] = malloc(size[k]);
        memset(block[k], k, size[k]);
    }
    expect(w, write(pipe_ends[1], &number, sizeof number) == sizeof number);
    number++;
}

/* All vector registers and most others, held over a loop that is interrupted at any point. */
typedef struct image {
    unsigned char vectors_in[32][64], vectors_out[32][64];
    uint64_t masks_in[8], masks_out[8], general_in[8], general_out[8];
} __attribute__((aligned(64))) image;
void hold_wide(image *, long spins), hold_narrow(image *, long spins);
asm(".macro general_in\n"
    " push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    " mov 4224(%rdi),%rbx; mov 4232(%rdi),%rbp; mov 4240(%rdi),%r8; mov 4248(%rdi),%r9\n"
    " mov 4256(%rdi),%r12; mov 4264(%rdi),%r13; mov 4272(%rdi),%r14; mov 4280(%rdi),%r15\n"
    " mov %rbx,-8(%rsp); mov %r15,-120(%rsp)\n"
    ".endm\n"
    ".macro general_out\n"
    " cmp %rbx,-8(%rsp); je 2f; xor %r8,%r8\n"
    "2: cmp %r15,-120(%rsp); je 3f; xor %r9,%r9\n"
    "3: mov %rbx,4288(%rdi); mov %rbp,4296(%rdi); mov %r8,4304(%rdi); mov %r9,4312(%rdi)\n"
    " mov %r12,4320(%rdi); mov %r13,4328(%rdi); mov %r14,4336(%rdi); mov %r15,4344(%rdi)\n"
    " pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    ".endm\n"
    ".globl hold_wide, hold_narrow\n"
    "hold_wide: general_in\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " vmovdqa64 \\r*64(%rdi),%zmm\\r\n"
    ".endr\n"
    ".irp r,1,2,3,4,5,6,7\n"
    " kmovw 4096+\\r*8(%rdi),%k\\r\n"
    ".endr\n"
    "1: dec %rsi; jnz 1b\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " vmovdqa64 %zmm\\r,2048+\\r*64(%rdi)\n"
    ".endr\n"
    ".irp r,1,2,3,4,5,6,7\n"
    " kmovw %k\\r,4160+\\r*8(%rdi)\n"
    ".endr\n"
    " vzeroupper\n"
    " general_out\n"
    "hold_narrow: general_in\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    " movdqa \\r*64(%rdi),%xmm\\r\n"
    ".endr\n"
    "1: dec %rsi; jnz 1b\n"
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    " movdqa %xmm\\r,2048+\\r*64(%rdi)\n"
    ".endr\n"
    " general_out\n");
_Static_assert(sizeof(image) == 4352, "the offsets in the code above");

static void round_spin(worker *w)
{
    static image held;
    static uint64_t seed = 9;
    const uint32_t mxcsr = 0xdf80; /* round up, flush to zero */
    const uint16_t control = 0x0c7f;
    uint32_t mxcsr_after;
    uint16_t control_after;
    int wide = __builtin_cpu_supports("avx512f");
    unsigned char *bytes = held.vectors_in[0];
    for (size_t i = 0; i < sizeof held.vectors_in; i++)
        bytes[i] = (unsigned char)((seed = seed * 6364136223846793005u + 1) >> 56);
    for (int i = 0; i < 8; i++) {
        held.masks_in[i] = (uint16_t)(seed >> (i + 20));
        held.general_in[i] = seed ^ (uint64_t)i << 50;
    }
    asm volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
    (wide ? hold_wide : hold_narrow)(&held, 2000000);
    asm volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_after), "=m"(control_after));
    for (int i = 0; i < (wide ? 32 : 16); i++)
        expect(w, !memcmp(held.vectors_in[i], held.vectors_out[i], wide ? 64 : 16));
    expect(w, !memcmp(held.general_in, held.general_out, sizeof held.general_in));
    expect(w, !wide || !memcmp(held.masks_in + 1, held.masks_out + 1, 7 * sizeof(uint64_t)));
    expect(w, (mxcsr_after & 0xffc0) == (mxcsr & 0xffc0) && control_after == control);
}

static worker workers[] = {
    {.name = "nanosleep", .round = round_nanosleep}, {.name = "poll", .round = round_poll},
    {.name = "epoll", .round = round_epoll},         {.name = "futex", .round = round_futex},
    {.name = "read", .round = round_read},           {.name = "malloc", .round = round_malloc},
    {.name = "spin", .round = round_spin},
};
enum { WORKERS = sizeof workers / sizeof workers[0] };
static int worker_count = WORKERS;

static void go_round(worker *w)
{
    w->round(w);
    atomic_fetch_add(&w->rounds, 1);
    atomic_fetch_add(&beat, 1);
}

static void *work(void *argument)
{
    worker *w = argument;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
    pthread_setname_np(pthread_self(), w->name);
    atomic_store(&w->tid, (int)syscall(SYS_gettid));
    for (;;)
        go_round(w);
    return NULL;
}

static void on_sigchld(int number)
{
    (void)number;
    atomic_fetch_add(&sigchlds, 1);
}

static void say_ready(void)
{
    printf("{\"pid\": %d, \"beat\": %lu, ", getpid(), (unsigned long)&beat);
    printf("\"stderr_variable\": %lu, \"stderr_file\": %lu, ", (unsigned long)&stderr, (unsigned long)stderr);
    printf("\"threads\": {\"main\": %d", getpid());
    for (int i = 0; i < worker_count; i++)
        printf(", \"%s\": %d", workers[i].name, workers[i].tid);
    printf("}}\n");
    fflush(stdout);
}

static void say_counts(void)
{
    long errors = 0;
    printf("{\"sigchld\": %ld, \"eintr\": {", sigchlds);
    for (int i = 0; i < worker_count; i++) {
        errors += workers[i].errors;
        printf("%s\"%s\": %ld", i ? ", " : "", workers[i].name, workers[i].eintrs);
    }
    printf("}, \"errors\": %ld}\n", errors);
    fflush(stdout);
}

static void wait_rounds(const long *from)
{
    const struct timespec nap = {0, 500000};
    for (int i = 0; i < worker_count; i++)
        while (workers[i].rounds < from[i] + 2)
            nanosleep(&nap, NULL);
}

static void run_threads(char **argv)
{
    static char line[64];
    long from[WORKERS];
    for (int i = 0; i < worker_count; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, &workers[i]);
    }
    for (int i = 0; i < worker_count; i++)
        while (!workers[i].tid)
            sched_yield();
    say_ready();
    while (read(STDIN_FILENO, line, sizeof line) > 0) {
        if (!strncmp(line, "exec", 4))
            execv("/proc/self/exe", argv);
        for (int i = 0; i < worker_count; i++)
            from[i] = workers[i].rounds;
        wait_rounds(from);
        say_counts();
    }
}

/* The only thread takes the parts of the first two workers in turn, and looks at stdin in between. */
static void run_single(void)
{
    static char line[64];
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    worker_count = 2;
    workers[0].tid = workers[1].tid = getpid();
    say_ready();
    for (;;) {
        go_round(&workers[0]);
        go_round(&workers[1]);
        if (poll(&input, 1, 0) <= 0)
            continue;
        if (read(STDIN_FILENO, line, sizeof line) <= 0)
            return;
        for (int i = 0; i < 4; i++)
            go_round(&workers[i % 2]);
        say_counts();
    }
}

static void hold_stderr(void)
{
    static char buffer[4096];
    setvbuf(stderr, buffer, _IOFBF, sizeof buffer);
    fprintf(stderr, "unwritten");
    flockfile(stderr);
}

int main(int argc, char **argv)
{
    const struct sigaction count = {.sa_handler = on_sigchld, .sa_flags = SA_RESTART};
    int single = 0;
    size_t mib = 16;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--single"))
            single = 1;
        else if (!strcmp(argv[i], "--subreaper"))
            prctl(PR_SET_CHILD_SUBREAPER, 1);
        else if (!strcmp(argv[i], "--stderr-held"))
            hold_stderr();
        else if (!strcmp(argv[i], "--mib") && i + 1 < argc)
            mib = strtoul(argv[++i], NULL, 10);
    }
    sigaction(SIGCHLD, &count, NULL);
    if (pipe(pipe_ends))
        return 1;
    void *ballast = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ballast == MAP_FAILED)
        return 1;
    memset(ballast, 1, mib << 20);
    if (single)
        run_single();
    else
        run_threads(argv);
    return 0;
}
