/* Lets a machine that stands still be forked, with all of its threads: the zygote of emulated machines.
 *
 * An emulator translates the code of its guest when it first runs, and a process begins with nothing translated. A fork
 * has all that its zygote has translated, and shares the memory with it.
 *
 * fork(2) takes one thread along. So all threads of QEMU are first stopped in a signal handler, where the kernel has
 * written on their stacks all that is in their registers. The main thread forks; in the child it makes a thread for each
 * of the others, on the copy of the stack and with the copy of the thread-local storage that the original has, whose
 * first act is to return from the signal: it goes on where the original was stopped.
 *
 * What a process shares with its parent is put right before any of them runs: the sockets, disk and interface of the
 * machine are replaced by those that came with the request, descriptors of events by new ones; and the child gives up
 * what rights the zygote has to do this, to be as confined as a machine that was started by itself.
 *
 * The service asks over a socket. It is trusted; the guest of the zygote stands still and has run nothing but its
 * template. Refused requests leave the zygote as it was. */
#include "fork.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "confine.h"
#include "kernel.h"

enum {
    MAX_THREADS = 64,
    MAX_GROUPS = 16,
    MAX_DESCRIPTORS = 1024, /* the limit of the jail */
    STACK = 64 * 1024,
    /* The C library's own, which nobody blocks; it would use it to change user ids in all threads, which nobody does. */
    STOP_SIGNAL = 33,
    MOMENT = 2000000,         /* nanoseconds after which it is looked again who is there */
    PATIENCE = 2000000000,    /* nanoseconds that all threads get to stop */
    THREAD_STRUCT = 0x900, /* bytes of the C library's record of a thread in which its id is looked for */
};

/* Descriptors that the process begins with, cube.cubelet.runtime.microvm.command says so, too. QEMU moves some. */
enum { STDERR = 2, MONITOR = 3, SECOND_MONITOR = 4, CONTROL = 5, LAYER = 7, TAP = 8, REQUESTS = 9 };
/* What comes with a request, in this order, then one descriptor to join each cgroup: instead of what the process began
 * with, and of the connections that the service has to it. Those stay open, so that neither QEMU nor the guest sees
 * one end and another begin. */
enum { BEGUN_WITH = 6, CONNECTIONS = 2, REPLACED = BEGUN_WITH + CONNECTIONS };
static const int begun_with[BEGUN_WITH] = {MONITOR, SECOND_MONITOR, CONTROL, LAYER, TAP, STDERR};
static const char *const connections[CONNECTIONS] = {".monitor", ".control"};
enum { NEW_LAYER = 3, NEW_TAP = 4, NEW_STDERR = 5 };
/* What is to be replaced. */
static struct stat originals[REPLACED];

struct request {
    uint32_t uid; /* in the zygote's user namespace */
};

struct answer {
    int32_t error;  /* 0 from the child, which is the sender of the message then */
    uint32_t stage; /* where it failed */
};

enum stage { STAGE_REQUEST = 1, STAGE_CONNECTIONS, STAGE_STOP, STAGE_FORK, STAGE_CGROUP, STAGE_DESCRIPTORS, STAGE_RIGHTS, STAGE_THREADS };

/* A thread of QEMU; the first one is the main thread. */
struct thread {
    volatile uint32_t id; /* or FREE, or BEGINNING */
    void *(*run)(void *);
    void *argument;
    void *volatile context; /* what the kernel has written of it, on its stack; 0 unless it is stopped */
    unsigned long storage;  /* thread-local */
    uint32_t *id_place;     /* where the C library has noted its id */
};
enum { FREE = 0, BEGINNING = 1 };

static struct request request;
static int given[REPLACED + MAX_GROUPS];
static uint32_t n_given;
static struct thread threads[MAX_THREADS];
static uint32_t process;
static volatile uint32_t stopped, left, go;
static int is_zygote, too_many;
static volatile int32_t fork_error;
enum { STAY, FORK, LEAVE };

static uint8_t is_event[MAX_DESCRIPTORS];
static uint32_t offload;
static char stack[STACK] __attribute__((aligned(64)));

void note_event(int fd)
{
    if (fd >= 0 && fd < MAX_DESCRIPTORS)
        is_event[fd] = 1;
}

void note_closed(int fd)
{
    if (fd >= 0 && fd < MAX_DESCRIPTORS)
        is_event[fd] = 0;
}

void note_offload(uint32_t features)
{
    offload = features;
}

static void wake(volatile uint32_t *word)
{
    kernel3(SYS_futex, word, FUTEX_WAKE, 1 << 30);
}

static long wait_while(volatile uint32_t *word, uint32_t value, const struct timespec *patience)
{
    return kernel4(SYS_futex, word, FUTEX_WAIT, value, patience);
}

static void answer(int error, enum stage stage)
{
    const struct answer said = {error, stage};
    kernel(SYS_sendto, REQUESTS, (long)&said, sizeof said, MSG_NOSIGNAL, 0, 0);
}

/* -- who is there ------------------------------------------------------------------------------------------------- */

static int has_ended(uint32_t id)
{
    return kernel3(SYS_tgkill, process, id, 0) == -ESRCH;
}

static struct thread *free_place(void)
{
    for (int i = 1; i < MAX_THREADS; i++) {
        uint32_t id = threads[i].id;
        if ((id == FREE || (id != BEGINNING && has_ended(id))) &&
            __atomic_compare_exchange_n(&threads[i].id, &id, BEGINNING, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return &threads[i];
    }
    return 0;
}

static void *begin(void *argument)
{
    struct thread *self = argument;
    void *(*run)(void *) = self->run;
    void *its_argument = self->argument;
    self->id = (uint32_t)kernel0(SYS_gettid);
    return run(its_argument);
}

int make_thread(make_thread_fn *make, void *thread, const void *attributes, void *(*run)(void *), void *argument)
{
    struct thread *place = is_zygote ? free_place() : 0;
    if (place == 0) {
        too_many |= is_zygote;
        return make(thread, attributes, run, argument);
    }
    place->run = run;
    place->argument = argument;
    const int error = make(thread, attributes, begin, place);
    if (error != 0)
        place->id = FREE;
    return error;
}

/* -- in the child ------------------------------------------------------------------------------------------------- */

static int same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_rdev == b->st_rdev;
}

static int is_given(int fd)
{
    for (uint32_t i = 0; i < n_given; i++) {
        if (given[i] == fd)
            return 1;
    }
    return 0;
}

/* Have every descriptor of an original be what `fresh` is. */
static long replace(const struct stat *original, int fresh)
{
    struct stat found;
    long error = 0;
    for (int fd = 0; fd < MAX_DESCRIPTORS && error >= 0; fd++) {
        if (!is_given(fd) && kernel2(SYS_fstat, fd, &found) >= 0 && same(original, &found))
            error = kernel3(SYS_dup3, fresh, fd, O_CLOEXEC);
    }
    return error;
}

/* What QEMU has told the interface of the zygote. */
static long like_the_old(int tap)
{
    int header = 0, room = 0;
    long error = kernel3(SYS_ioctl, TAP, TUNGETVNETHDRSZ, &header);
    if (error >= 0)
        error = kernel3(SYS_ioctl, tap, TUNSETVNETHDRSZ, &header);
    if (error >= 0)
        error = kernel3(SYS_ioctl, tap, TUNSETOFFLOAD, offload);
    if (error >= 0 && kernel3(SYS_ioctl, TAP, TUNGETSNDBUF, &room) >= 0)
        error = kernel3(SYS_ioctl, tap, TUNSETSNDBUF, &room);
    return error;
}

static long new_events(void)
{
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        if (!is_event[fd])
            continue;
        /* Set, for it may have been: whoever is woken for nothing looks and goes on waiting. */
        long fresh = kernel2(SYS_eventfd2, 1, O_CLOEXEC | O_NONBLOCK);
        if (fresh < 0)
            return fresh;
        long error = kernel3(SYS_dup3, fresh, fd, O_CLOEXEC);
        kernel1(SYS_close, fresh);
        if (error < 0)
            return error;
    }
    return 0;
}

static long own_descriptors(void)
{
    long error = like_the_old(given[NEW_TAP]);
    for (int i = 0; i < REPLACED && error >= 0; i++) {
        if (i != NEW_LAYER && i != NEW_STDERR)
            error = kernel3(SYS_fcntl, given[i], F_SETFL, O_NONBLOCK | kernel2(SYS_fcntl, given[i], F_GETFL));
        if (error >= 0)
            error = replace(&originals[i], given[i]);
    }
    for (uint32_t i = 0; i < n_given; i++)
        kernel1(SYS_close, given[i]);
    return error < 0 ? error : new_events();
}

static long join_groups(void)
{
    for (uint32_t i = REPLACED; i < n_given; i++) {
        long written = kernel3(SYS_write, given[i], "0", 1);
        if (written < 0)
            return written;
    }
    return 0;
}

static long give_up_rights(void)
{
    long error = kernel3(SYS_setresgid, request.uid, request.uid, request.uid);
    if (error >= 0)
        error = kernel3(SYS_setresuid, request.uid, request.uid, request.uid);
    return error < 0 ? error : confine((uint32_t)kernel0(SYS_getpid));
}

/* A thread that begins by returning from the signal that stopped `original`. */
static long begin_again(const struct thread *original)
{
    const long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                       CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    long result;
    register long child_id __asm__("r10") = (long)original->id_place;
    register long storage __asm__("r8") = (long)original->storage;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %[sigreturn], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)SYS_clone), "D"(flags), "S"(original->context), "d"(original->id_place), "r"(child_id),
                       "r"(storage), [sigreturn] "i"(SYS_rt_sigreturn)
                     : "rcx", "r11", "memory");
    return result;
}

static void become_a_machine(void)
{
    enum stage stage = STAGE_CGROUP;
    long error = join_groups();
    if (error >= 0) {
        stage = STAGE_DESCRIPTORS;
        error = own_descriptors();
    }
    if (error >= 0) {
        stage = STAGE_RIGHTS;
        error = give_up_rights();
    }
    *threads[0].id_place = (uint32_t)kernel1(SYS_set_tid_address, threads[0].id_place);
    stage = error < 0 ? stage : STAGE_THREADS;
    is_zygote = 0;
    for (int i = 1; i < MAX_THREADS && error >= 0; i++) {
        if (threads[i].context != 0)
            error = begin_again(&threads[i]);
    }
    if (error < 0) {
        answer((int)-error, stage);
        kernel1(SYS_exit_group, 1);
    }
    answer(0, 0);
    kernel1(SYS_close, REQUESTS);
}

/* -- in the zygote ------------------------------------------------------------------------------------------------ */

/* Where the C library keeps the id of the calling thread; the record begins where thread-local storage ends. */
static uint32_t *place_of_id(unsigned long storage, uint32_t id)
{
    for (uint32_t *word = (uint32_t *)storage; word < (uint32_t *)(storage + THREAD_STRUCT); word++) {
        if (*word == id)
            return word;
    }
    return 0;
}

/* The handler, in every thread of QEMU. */
static void stop_here(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    const uint32_t id = (uint32_t)kernel0(SYS_gettid);
    struct thread *self = 0;
    for (int i = 0; i < MAX_THREADS; i++) {
        if (threads[i].id == id)
            self = &threads[i];
    }
    if (self == 0)
        return;
    kernel2(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, &self->storage);
    self->id_place = place_of_id(self->storage, id);
    self->context = context;
    __atomic_add_fetch(&stopped, 1, __ATOMIC_SEQ_CST);
    wake(&stopped);
    while (go == STAY)
        wait_while(&go, STAY, 0);
    if (id == process && go == FORK) {
        const long child = kernel(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0);
        if (child == 0) {
            become_a_machine();
            return;
        }
        fork_error = child < 0 ? (int32_t)-child : 0;
        go = LEAVE;
        wake(&go);
    }
    while (go == FORK)
        wait_while(&go, FORK, 0);
    __atomic_add_fetch(&left, 1, __ATOMIC_SEQ_CST);
    wake(&left);
}

static void __attribute__((naked)) return_from_signal(void)
{
    __asm__("mov %0, %%eax\n\tsyscall" ::"i"(SYS_rt_sigreturn));
}

struct kernel_action {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};
enum { K_SA_RESTORER = 0x04000000 };

static long catch_the_signal(void)
{
    const struct kernel_action action = {stop_here, SA_SIGINFO | SA_RESTART | K_SA_RESTORER, return_from_signal, ~0ul};
    return kernel4(SYS_rt_sigaction, STOP_SIGNAL, &action, 0, sizeof action.mask);
}

/* How many threads are on their way to stop; those that have ended meanwhile are forgotten. */
static int still_running(void)
{
    int running = 0;
    for (int i = 0; i < MAX_THREADS; i++) {
        const uint32_t id = threads[i].id;
        if (id == FREE || threads[i].context != 0)
            continue;
        if (id != BEGINNING && has_ended(id))
            threads[i].id = FREE;
        else
            running++;
    }
    return running;
}

static uint32_t n_stopped(void)
{
    uint32_t n = 0;
    for (int i = 0; i < MAX_THREADS; i++)
        n += threads[i].context != 0;
    return n;
}

/* Stop every thread; 0 or an error. */
static int stop_all(void)
{
    /* Now, for the C library takes the signal when the first thread is made. */
    if (catch_the_signal() < 0)
        return EINVAL;
    stopped = left = 0;
    go = STAY;
    for (int i = 0; i < MAX_THREADS; i++)
        threads[i].context = 0;
    for (int i = 0; i < MAX_THREADS; i++) {
        if (threads[i].id > BEGINNING)
            kernel3(SYS_tgkill, process, threads[i].id, STOP_SIGNAL);
    }
    const struct timespec moment = {0, MOMENT};
    for (long waited = 0; still_running() > 0; waited += MOMENT) {
        if (waited > PATIENCE)
            return ETIMEDOUT;
        const uint32_t now = stopped;
        if (still_running() > 0)
            wait_while(&stopped, now, &moment);
    }
    for (int i = 0; i < MAX_THREADS; i++) {
        if (threads[i].context != 0 && threads[i].id_place == 0)
            return ENOTSUP;
    }
    return too_many ? EMFILE : 0;
}

/* The descriptors of a request belong to us from here on. */
static int receive(void)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof given)];
    } control;
    struct iovec body = {&request, sizeof request};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    long size;
    do {
        size = kernel3(SYS_recvmsg, REQUESTS, &message, MSG_CMSG_CLOEXEC);
    } while (size == -EINTR);
    n_given = 0;
    const struct cmsghdr *found = CMSG_FIRSTHDR(&message);
    if (size > 0 && found != 0 && found->cmsg_type == SCM_RIGHTS) {
        n_given = (uint32_t)((found->cmsg_len - CMSG_LEN(0)) / sizeof *given);
        for (uint32_t i = 0; i < n_given; i++)
            given[i] = ((const int *)CMSG_DATA(found))[i];
    }
    return (int)size;
}

static int makes_sense(int size)
{
    return size == (int)sizeof request && n_given >= REPLACED && request.uid != 0;
}

static int ends_with(const char *name, unsigned size, const char *end)
{
    unsigned length = 0;
    while (end[length] != 0)
        length++;
    while (size > 0 && name[size - 1] == 0)
        size--;
    for (unsigned i = 0; i < length; i++) {
        if (size < length || name[size - length + i] != end[i])
            return 0;
    }
    return 1;
}

/* Note the sockets that QEMU has accepted, whose name is that of the door; whether each is there once. */
static int find_connections(void)
{
    int found[CONNECTIONS] = {0};
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        struct stat status;
        struct sockaddr_un name;
        int size = sizeof name, listens = 0;
        if (is_given(fd) || kernel2(SYS_fstat, fd, &status) < 0 || !S_ISSOCK(status.st_mode) ||
            kernel3(SYS_getsockname, fd, &name, &size) < 0 || size <= (int)offsetof(struct sockaddr_un, sun_path))
            continue;
        for (int i = 0; i < BEGUN_WITH; i++)
            listens |= same(&status, &originals[i]);
        for (int i = 0; i < CONNECTIONS && !listens; i++) {
            if (ends_with(name.sun_path, (unsigned)size - (unsigned)offsetof(struct sockaddr_un, sun_path), connections[i])) {
                originals[BEGUN_WITH + i] = status;
                found[i]++;
            }
        }
    }
    return found[0] == 1 && found[1] == 1;
}

static void carry_out(int size)
{
    if (!makes_sense(size)) {
        answer(EINVAL, STAGE_REQUEST);
        return;
    }
    if (!find_connections()) {
        answer(ENOTCONN, STAGE_CONNECTIONS);
        return;
    }
    int error = stop_all();
    fork_error = 0;
    go = error != 0 ? LEAVE : FORK;
    wake(&go);
    while (go == FORK)
        wait_while(&go, FORK, 0);
    /* Before the next request has them wait again. */
    for (uint32_t now = left; now < n_stopped(); now = left)
        wait_while(&left, now, 0);
    if (error != 0)
        answer(error, STAGE_STOP);
    else if (fork_error != 0)
        answer(fork_error, STAGE_FORK);
}

/* The thread that takes requests; it has no thread-local storage of its own and must not use the C library. */
static void serve(void)
{
    for (;;) {
        int size = receive();
        if (size <= 0)
            kernel1(SYS_exit, 0);
        carry_out(size);
        for (uint32_t i = 0; i < n_given; i++)
            kernel1(SYS_close, given[i]);
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

static int asked_for(char **environment)
{
    static const char wanted[] = "VMM_ZYGOTE=1";
    for (; *environment != 0; environment++) {
        unsigned i = 0;
        while (wanted[i] != 0 && (*environment)[i] == wanted[i])
            i++;
        if (wanted[i] == 0 && (*environment)[i] == 0)
            return 1;
    }
    return 0;
}

/* The loader of glibc calls it with what main() gets. */
static void __attribute__((constructor)) prepare(int argc, char **argv, char **environment)
{
    (void)argc, (void)argv;
    if (!asked_for(environment))
        return;
    is_zygote = 1;
    process = threads[0].id = (uint32_t)kernel0(SYS_getpid);
    for (int i = 0; i < BEGUN_WITH; i++)
        kernel2(SYS_fstat, begun_with[i], &originals[i]);
    begin_thread();
}
