/* A program without any C library, for x86-64 and, with -m32, for i386: says that it is ready and waits for the end of stdin.
 * Compile with -nostdlib -static; with -DGO it bears the build note of a Go program. */
#ifdef GO
__asm__(".section .note.go.buildid, \"a\", @note\n"
        ".balign 4\n.long 4, 4, 4\n.ascii \"Go\\0\\0\"\n.ascii \"none\"\n.previous");
#endif

static long call(long number, long first, long second, long third)
{
#ifdef __x86_64__
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
#else
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third) : "memory");
#endif
    return result;
}

#ifdef __x86_64__
enum { READ = 0, WRITE = 1, EXIT = 60 };
#else
enum { READ = 3, WRITE = 4, EXIT = 1 };
#endif

__attribute__((used, noreturn)) void begin(void)
{
    char byte;
    call(WRITE, 1, (long)"ready\n", 6);
    while (call(READ, 0, (long)&byte, 1) > 0)
        ;
    for (;;)
        call(EXIT, 0, 0, 0);
}

/* The kernel starts a program with an aligned stack and without a return address. */
__asm__(".globl _start\n_start: call begin");
