/* The entry point of a program that runs under every glibc: the C runtime's own would ask for GLIBC_2.34.
 *
 * Does what crt1.o did before 2.34, without constructors, of which our programs have none. */
#ifdef __i386__
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    pop %esi\n"                /* argc */
        "    mov %esp, %ecx\n"          /* argv */
        "    and $-16, %esp\n"
        "    push %eax\n"
        "    push %esp\n"
        "    push %edx\n"               /* the loader's finaliser */
        "    push $0\n"                 /* no _fini, no _init */
        "    push $0\n"
        "    push %ecx\n"
        "    push %esi\n"
        "    push $main\n"
        "    call __libc_start_main\n"
        "    hlt\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x5, x0\n"              /* the loader's finaliser */
        "    ldr x1, [sp]\n"            /* argc */
        "    add x2, sp, #8\n"          /* argv */
        "    mov x6, sp\n"
        "    adrp x0, main\n"
        "    add x0, x0, :lo12:main\n"
        "    mov x3, #0\n"              /* no _init, no _fini */
        "    mov x4, #0\n"
        "    bl __libc_start_main\n"
        "    brk #0\n");
#else
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rdx, %r9\n"           /* the loader's finaliser */
        "    pop %rsi\n"                /* argc */
        "    mov %rsp, %rdx\n"          /* argv */
        "    and $-16, %rsp\n"
        "    push %rax\n"
        "    push %rsp\n"
        "    xor %r8d, %r8d\n"          /* no _fini, no _init */
        "    xor %ecx, %ecx\n"
        "    lea main(%rip), %rdi\n"
        "    call *__libc_start_main@GOTPCREL(%rip)\n"
        "    hlt\n");
#endif
