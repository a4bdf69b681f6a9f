/* Lets a machine that stands still be forked, with all of its threads: the zygote of emulated machines.
 *
 * An emulator translates the code of its guest when it first runs, and a process begins with nothing translated. A fork
 * has all that its zygote has translated, and shares the memory with it.
 *
 * fork(2) takes one thread along. So all threads of QEMU are first stopped; the main thread forks, and in the child it
 * makes the others again (threads.c).
 *
 * What a process shares with its parent is put right before any of them runs: the sockets, disk and interface of the
 * machine are replaced by those that came with the request, descriptors of events by new ones (descriptors.c); and the
 * child gives up what rights the zygote has to do this, to be as confined as a machine that was started by itself
 * (confine.c).
 *
 * The service asks over a socket. It is trusted; the guest of the zygote stands still and has run nothing but its
 * template. Refused requests leave the zygote as it was. */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "confine.h"
#include "descriptors.h"
#include "kernel.h"
#include "threads.h"

enum { STACK = 64 * 1024 };

struct request {
    uint32_t uid; /* in the zygote's user namespace */
};

struct answer {
    int32_t error;  /* 0 from the child, which is the sender of the message then */
    uint32_t stage; /* where it failed */
};

/* cube.cubelet.runtime.microvm.forks says so, too. */
enum stage {
    STAGE_REQUEST = 1,
    STAGE_CONNECTIONS,
    STAGE_STOP,
    STAGE_FORK,
    STAGE_CGROUP,
    STAGE_DESCRIPTORS,
    STAGE_RIGHTS,
    STAGE_THREADS,
};

static struct request request;
static struct given given;
static char stack[STACK] __attribute__((aligned(64)));

static void answer(int error, enum stage stage)
{
    const struct answer said = {error, stage};
    kernel(SYS_sendto, REQUESTS, (long)&said, sizeof said, MSG_NOSIGNAL, 0, 0);
}

/* -- in the child ------------------------------------------------------------------------------------------------- */

static long join_groups(void)
{
    long error = 0;
    for (uint32_t i = N_REPLACED; i < given.count && error >= 0; i++)
        error = kernel3(SYS_write, given.fds[i], "0", 1);
    return error;
}

static long replace_descriptors(void)
{
    return descriptors_replace(&given);
}

static long give_up_rights(void)
{
    long error = kernel3(SYS_setresgid, request.uid, request.uid, request.uid);
    if (error >= 0)
        error = kernel3(SYS_setresuid, request.uid, request.uid, request.uid);
    return error < 0 ? error : confine((uint32_t)kernel0(SYS_getpid));
}

static void become_a_machine(void)
{
    static const struct {
        enum stage stage;
        long (*run)(void);
    } steps[] = {
        {STAGE_CGROUP, join_groups},
        {STAGE_DESCRIPTORS, replace_descriptors},
        {STAGE_RIGHTS, give_up_rights},
        {STAGE_THREADS, threads_make_again},
    };
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
        const long error = steps[i].run();
        if (error < 0) {
            answer((int)-error, steps[i].stage);
            kernel1(SYS_exit_group, 1);
        }
    }
    answer(0, 0);
    kernel1(SYS_close, REQUESTS);
}

/* -- in the zygote ------------------------------------------------------------------------------------------------ */

/* The descriptors of a request belong to us from here on. */
static long receive(void)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof given.fds)];
    } control;
    struct iovec body = {&request, sizeof request};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    long size;
    do {
        size = kernel3(SYS_recvmsg, REQUESTS, &message, MSG_CMSG_CLOEXEC);
    } while (size == -EINTR);
    given.count = 0;
    const struct cmsghdr *found = CMSG_FIRSTHDR(&message);
    if (size > 0 && found != 0 && found->cmsg_type == SCM_RIGHTS) {
        given.count = (uint32_t)((found->cmsg_len - CMSG_LEN(0)) / sizeof *given.fds);
        for (uint32_t i = 0; i < given.count; i++)
            given.fds[i] = ((const int *)CMSG_DATA(found))[i];
    }
    return size;
}

static void carry_out(long size)
{
    if (size != (long)sizeof request || given.count < N_REPLACED || request.uid == 0) {
        answer(EINVAL, STAGE_REQUEST);
        return;
    }
    if (!descriptors_find_connections(&given)) {
        answer(ENOTCONN, STAGE_CONNECTIONS);
        return;
    }
    enum stage stage = STAGE_STOP;
    int error = threads_stop();
    if (error == 0) {
        stage = STAGE_FORK;
        error = threads_fork(become_a_machine);
    }
    threads_go_on();
    if (error != 0)
        answer(error, stage);
}

/* The thread that takes requests; it has no thread-local storage of its own and must not use the C library. */
static void serve(void)
{
    for (;;) {
        const long size = receive();
        if (size <= 0)
            kernel1(SYS_exit, 0);
        carry_out(size);
        descriptors_close(&given);
    }
}

static void begin_thread(void)
{
    const long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "call *%[serve]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)SYS_clone), "D"(flags), "S"(stack + STACK), "d"(0l), [serve] "r"(serve)
                     : "rcx", "r11", "memory");
}

/* Whether requests will come. What a process is started with is not the same to all C libraries before main(). */
static int is_zygote(void)
{
    int type = 0, size = sizeof type;
    kernel(SYS_getsockopt, REQUESTS, SOL_SOCKET, SO_TYPE, (long)&type, (long)&size, 0);
    return type == SOCK_SEQPACKET;
}

static void __attribute__((constructor)) prepare(void)
{
    if (!is_zygote())
        return;
    descriptors_remember();
    threads_remember();
    begin_thread();
}
