/* System calls without a C library, for x86-64: QEMU has one, but not every thread of ours may use it. */
#ifndef VMM_KERNEL_H
#define VMM_KERNEL_H

/* The result, or the negated error number. */
static inline long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define kernel0(n) kernel(n, 0, 0, 0, 0, 0, 0)
#define kernel1(n, a) kernel(n, (long)(a), 0, 0, 0, 0, 0)
#define kernel2(n, a, b) kernel(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define kernel3(n, a, b, c) kernel(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define kernel4(n, a, b, c, d) kernel(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

#endif
