/* While the command runs: signals go to it, and when it has a terminal of its own, what is typed and shown, too. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "children.h"
#include "sudo.h"
#include "sudo_client.h"

enum { RUNNING = -1, CHUNK = 4096, DRAIN_MS = 200 };
enum { POLL_SOCKET, POLL_SIGNALS, POLL_MASTER, POLL_INPUT, N_POLLS };

struct relay {
    int socket, signals;
    int master; /* -1 without a terminal, or when it has ended */
    bool terminal, background, raw, input_ended;
    const char *program;
    struct termios original;
    char input[CHUNK]; /* typed, not yet taken by the master */
    size_t input_used;
};

static struct message message;

static void set_raw(struct relay *r)
{
    struct termios raw = r->original;
    if (!r->terminal || r->raw || tcgetpgrp(0) != getpgrp())
        return;
    cfmakeraw(&raw);
    r->raw = tcsetattr(0, TCSADRAIN, &raw) == 0;
}

static void restore(struct relay *r)
{
    if (r->raw)
        tcsetattr(0, TCSADRAIN, &r->original);
    r->raw = false;
}

static void forward_signal(const struct relay *r, uint32_t number)
{
    struct writer writer;
    put_begin(&writer, SUDO_SIGNAL, 0);
    put_u32(&writer, number);
    put_send(&writer, r->socket, NULL, 0);
}

static void copy_size(const struct relay *r)
{
    struct winsize size;
    if (ioctl(0, TIOCGWINSZ, &size) == 0)
        ioctl(r->master, TIOCSWINSZ, &size); /* the kernel signals its foreground */
}

static void write_all(const char *data, ssize_t size)
{
    while (size > 0) {
        ssize_t written = write(1, data, (size_t)size);
        if (written < 0 && errno != EINTR && errno != EAGAIN)
            return;
        if (written > 0) {
            data += written;
            size -= written;
        }
    }
}

/* False once the terminal has ended. */
static bool show_output(struct relay *r)
{
    char data[CHUNK];
    ssize_t n = read(r->master, data, sizeof data);
    if (n > 0)
        write_all(data, n);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* What was written last reaches the master a moment after its writer's end. A process that the command has left behind
 * may hold the terminal for ever, so there is a limit. */
static void drain(struct relay *r)
{
    struct pollfd master = {.fd = r->master, .events = POLLIN};
    while (r->master >= 0 && poll(&master, 1, DRAIN_MS) > 0 && show_output(r))
        ;
}

static void read_input(struct relay *r)
{
    ssize_t n = read(0, r->input, sizeof r->input);
    if (n > 0)
        r->input_used = (size_t)n;
    else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
        r->input_ended = true;
        forward_signal(r, SIGHUP);
    }
}

static void pass_input_on(struct relay *r)
{
    ssize_t n = write(r->master, r->input, r->input_used);
    if (n > 0)
        memmove(r->input, r->input + n, r->input_used -= (size_t)n);
}

static void stop_too(struct relay *r)
{
    restore(r);
    kill(getpid(), SIGSTOP);
}

static void on_signal(struct relay *r)
{
    struct signalfd_siginfo info;
    if (read(r->signals, &info, sizeof info) != sizeof info)
        return;
    if (info.ssi_signo == SIGCONT)
        set_raw(r);
    if (info.ssi_signo == SIGWINCH && r->master >= 0)
        copy_size(r);
    else
        forward_signal(r, info.ssi_signo);
}

static int failed(const struct relay *r, int error, uint32_t stage)
{
    if (stage == STAGE_EXEC && error == ENOENT)
        fprintf(stderr, "sudo: %s: command not found\n", r->program);
    else if (stage == STAGE_EXEC)
        fprintf(stderr, "sudo: %s: %s\n", r->program, strerror(error));
    else if (stage == STAGE_USER)
        fprintf(stderr, "sudo: unknown user or group\n");
    else
        fprintf(stderr, "sudo: the command cannot be started: %s\n", strerror(error));
    return 1;
}

static int status_of(int wait_status)
{
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

static int started(struct relay *r)
{
    r->master = message_take_fd(&message, 0);
    if (r->master >= 0) {
        fcntl(r->master, F_SETFL, O_NONBLOCK);
        set_raw(r);
    }
    return RUNNING;
}

/* The exit status, or RUNNING. */
static int on_message(struct relay *r)
{
    struct reader *body = &message.body;
    switch (message.kind) {
    case SUDO_REFUSED:
        fputs("sudo: this user may not run commands as another user in this sandbox\n", stderr);
        return 1;
    case SUDO_STARTED:
        return started(r);
    case SUDO_STOPPED:
        stop_too(r);
        return RUNNING;
    case SUDO_FAILED: {
        restore(r);
        int error = get_i32(body);
        return failed(r, error, get_u32(body));
    }
    case SUDO_ENDED:
        drain(r);
        restore(r);
        return status_of(get_i32(body));
    }
    return RUNNING;
}

static int read_socket(struct relay *r)
{
    int received = message_receive(r->socket, &message);
    /* Who is refused is hung up on before the request has been read. The kernel tells of that first, and once. */
    if (received < 0 && errno == ECONNRESET)
        received = message_receive(r->socket, &message);
    if (received > 0) {
        int status = on_message(r);
        message_release(&message);
        return status;
    }
    restore(r);
    if (r->background)
        return 0; /* it was started, and whoever watched over it has nothing more to tell */
    fputs("sudo: the process that watched over the command has ended\n", stderr);
    return 1;
}

static void wait_for_something(struct relay *r, struct pollfd polled[N_POLLS])
{
    bool foreground = r->raw && !r->input_ended;
    polled[POLL_SOCKET] = (struct pollfd){.fd = r->socket, .events = POLLIN};
    polled[POLL_SIGNALS] = (struct pollfd){.fd = r->signals, .events = POLLIN};
    polled[POLL_MASTER] = (struct pollfd){.fd = r->master, .events = POLLIN | (r->input_used ? POLLOUT : 0)};
    polled[POLL_INPUT] = (struct pollfd){.fd = foreground && !r->input_used ? 0 : -1, .events = POLLIN};
    if (poll(polled, N_POLLS, -1) < 0)
        memset(polled, 0, N_POLLS * sizeof *polled);
}

static void move_data(struct relay *r, const struct pollfd polled[N_POLLS])
{
    if (polled[POLL_INPUT].revents)
        read_input(r);
    if (r->input_used && r->master >= 0)
        pass_input_on(r);
    if ((polled[POLL_MASTER].revents & (POLLIN | POLLHUP | POLLERR)) && !show_output(r)) {
        close(r->master);
        r->master = -1;
    }
}

static int take_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH, SIGUSR1, SIGUSR2, SIGALRM};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&set, numbers[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int sudo_relay(int socket, bool terminal, bool background, const char *program)
{
    static struct relay r;
    struct pollfd polled[N_POLLS];
    int status = RUNNING;
    r = (struct relay){.socket = socket, .master = -1, .terminal = terminal, .background = background};
    r.program = program;
    r.signals = take_signals();
    tcgetattr(0, &r.original);
    while (status == RUNNING) {
        wait_for_something(&r, polled);
        if (polled[POLL_SIGNALS].revents)
            on_signal(&r);
        move_data(&r, polled);
        if (polled[POLL_SOCKET].revents)
            status = read_socket(&r);
    }
    return status;
}
