/* A thread is stopped by a signal, where it waits for something: the handler waits too, and the kernel has written all
 * that was in its registers on its stack. In a fork a new thread is made on the copy of that stack, with the copy of its
 * thread-local storage, and its first act is to return from the signal. */
#include "threads.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>

#include "kernel.h"

enum {
    MAX_THREADS = 64,
    /* The C library's own, which nobody blocks; it would use it to change user ids in all threads, which nobody does. */
    STOP_SIGNAL = 33,
    MOMENT = 2 * 1000 * 1000,      /* nanoseconds after which it is looked again who is there */
    PATIENCE = 2000 * 1000 * 1000, /* nanoseconds that all threads get to stop */
    RECORD = 0x900,                /* bytes of the C library's record of a thread in which its id is looked for */
    K_ARCH_GET_FS = 0x1003,
    K_SA_RESTORER = 0x04000000,
};

/* The first one is the main thread. */
struct thread {
    volatile uint32_t id; /* or FREE, or BEGINNING */
    void *(*run)(void *);
    void *argument;
    void *volatile context; /* what the kernel has written of it; 0 unless it is stopped */
    unsigned long storage;  /* thread-local */
    uint32_t *id_place;     /* where the C library has noted its id */
};
enum { FREE = 0, BEGINNING = 1 };

static struct thread threads[MAX_THREADS];
static uint32_t process;
static int remembering, too_many;

/* What stopped threads wait for. */
enum { STAY, FORK, LEAVE };
static volatile uint32_t go, stopped, left;
static void (*volatile then)(void);
static volatile int fork_error;

static void wake(volatile uint32_t *word)
{
    kernel3(SYS_futex, word, FUTEX_WAKE, 1 << 30);
}

static void wait_while(volatile uint32_t *word, uint32_t value, const struct timespec *patience)
{
    kernel4(SYS_futex, word, FUTEX_WAIT, value, patience);
}

/* -- who is there ------------------------------------------------------------------------------------------------- */

void threads_remember(void)
{
    process = threads[0].id = (uint32_t)kernel0(SYS_getpid);
    remembering = 1;
}

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

int threads_make(make_thread_fn *make, void *thread, const void *attributes, void *(*run)(void *), void *argument)
{
    struct thread *place = remembering ? free_place() : 0;
    if (place == 0) {
        too_many |= remembering;
        return make(thread, attributes, run, argument);
    }
    place->run = run;
    place->argument = argument;
    const int error = make(thread, attributes, begin, place);
    if (error != 0)
        place->id = FREE;
    return error;
}

/* -- stopping ----------------------------------------------------------------------------------------------------- */

/* Where the C library keeps the id of the calling thread; its record begins where thread-local storage ends. */
static uint32_t *place_of_id(unsigned long storage, uint32_t id)
{
    for (uint32_t *word = (uint32_t *)storage; word < (uint32_t *)(storage + RECORD); word++) {
        if (*word == id)
            return word;
    }
    return 0;
}

static struct thread *find(uint32_t id)
{
    for (int i = 0; i < MAX_THREADS; i++) {
        if (threads[i].id == id)
            return &threads[i];
    }
    return 0;
}

/* Whether the caller is the child. */
static int fork_now(void)
{
    /* The launcher's child, like every machine, and not the zygote's. */
    const long child = kernel(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0);
    if (child == 0)
        return 1;
    fork_error = child < 0 ? (int)-child : 0;
    go = LEAVE;
    wake(&go);
    return 0;
}

/* The handler. */
static void stop_here(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    struct thread *self = find((uint32_t)kernel0(SYS_gettid));
    if (self == 0)
        return;
    kernel2(SYS_arch_prctl, K_ARCH_GET_FS, &self->storage);
    self->id_place = place_of_id(self->storage, self->id);
    self->context = context;
    __atomic_add_fetch(&stopped, 1, __ATOMIC_SEQ_CST);
    wake(&stopped);
    while (go == STAY)
        wait_while(&go, STAY, 0);
    if (self == threads && go == FORK && fork_now()) {
        then();
        return;
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

static long catch_the_signal(void)
{
    const struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags;
        void (*restorer)(void);
        unsigned long mask;
    } action = {stop_here, SA_SIGINFO | SA_RESTART | K_SA_RESTORER, return_from_signal, ~0ul};
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

static int all_have_stopped(void)
{
    const struct timespec moment = {0, MOMENT};
    for (long waited = 0; waited < PATIENCE; waited += MOMENT) {
        const uint32_t now = stopped;
        if (still_running() == 0)
            return 1;
        wait_while(&stopped, now, &moment);
    }
    return 0;
}

static int is_system_call(const unsigned char *code)
{
    return code[0] == 0x0f && code[1] == 0x05;
}

/* Whether a thread was stopped where it waits for something to happen. There it holds no lock: some know their owner by
 * the id of the thread, which is another in a fork, and QEMU aborts when such a one is not its owner's any more. */
static int waits(const struct thread *thread)
{
    const greg_t *registers = ((const ucontext_t *)thread->context)->uc_mcontext.gregs;
    const unsigned char *next = (const unsigned char *)registers[REG_RIP];
    if (registers[REG_RAX] == -EINTR)
        return is_system_call(next - 2);
    /* It will be made again, or it is about to be made. */
    switch (registers[REG_RAX]) {
    case SYS_futex:
    case SYS_poll:
    case SYS_ppoll:
    case SYS_select:
    case SYS_pselect6:
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_rt_sigtimedwait:
    case SYS_clock_nanosleep:
        return is_system_call(next);
    default:
        return 0;
    }
}

/* 0, or an error; EAGAIN when somebody was in the middle of something. */
static int stop_once(void)
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
    if (!all_have_stopped())
        return ETIMEDOUT;
    int busy = 0;
    for (int i = 0; i < MAX_THREADS; i++) {
        if (threads[i].context == 0)
            continue;
        if (threads[i].id_place == 0)
            return ENOTSUP;
        busy |= !waits(&threads[i]);
    }
    return too_many ? EMFILE : busy ? EAGAIN : 0;
}

static uint32_t n_stopped(void)
{
    uint32_t n = 0;
    for (int i = 0; i < MAX_THREADS; i++)
        n += threads[i].context != 0;
    return n;
}

void threads_go_on(void)
{
    go = LEAVE;
    wake(&go);
    /* All of them, before the next threads_stop() has them wait again. */
    for (uint32_t now = left; now < n_stopped(); now = left)
        wait_while(&left, now, 0);
}

int threads_stop(void)
{
    const struct timespec moment = {0, MOMENT};
    for (long waited = 0;; waited += MOMENT) {
        const int error = stop_once();
        if (error != EAGAIN || waited >= PATIENCE)
            return error;
        threads_go_on();
        kernel2(SYS_nanosleep, &moment, 0);
    }
}

/* -- forking ------------------------------------------------------------------------------------------------------ */

int threads_fork(void (*in_child)(void))
{
    then = in_child;
    fork_error = 0;
    go = FORK;
    wake(&go);
    while (go == FORK)
        wait_while(&go, FORK, 0);
    return fork_error;
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

long threads_make_again(void)
{
    /* It will not be forked itself. */
    remembering = 0;
    *threads[0].id_place = (uint32_t)kernel1(SYS_set_tid_address, threads[0].id_place);
    for (int i = 1; i < MAX_THREADS; i++) {
        const long error = threads[i].context == 0 ? 0 : begin_again(&threads[i]);
        if (error < 0)
            return error;
    }
    return 0;
}
