/* The serving side of sudo. Per command there are two processes: a monitor, which leads the session, forwards signals and
 * reports the end, and the command in a process group of its own, so that job control works as under a shell. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "children.h"
#include "sudo.h"

enum { REQUEST_SECONDS = 10 };
enum { FD_DIRECTORY, FD_STDIN, N_FDS = FD_STDIN + 3 };

struct command {
    int client;
    uint32_t flags;
    struct winsize size;
    struct termios termios;
    const char *directory, *program;
    char **argv, **env;
    int master, slave; /* -1 without a terminal */
    pid_t pid;
};

static int listener = -1;
static const struct serve_config *config;
static struct user user;
static struct message request;

int sudo_listen(const struct serve_config *given)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path + 1, SUDO_ADDRESS, sizeof SUDO_ADDRESS - 1);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + sizeof SUDO_ADDRESS;
    config = given;
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return -1;
    if (bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 64) == 0)
        return listener;
    close(listener);
    return listener = -1;
}

static bool allowed(int client)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        return false;
    bool found = peer.uid == 0;
    for (size_t i = 0; i < config->n_sudo; i++)
        found |= peer.uid == config->sudo_uids[i];
    return found;
}

void sudo_accept(void)
{
    static const uint32_t refused[2] = {SUDO_REFUSED, 0};
    int client;
    while ((client = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (!allowed(client))
            send(client, refused, sizeof refused, MSG_DONTWAIT | MSG_NOSIGNAL);
        else if (fork() == 0)
            sudo_child(client);
        close(client);
    }
}

static int tell(const struct command *c, enum sudo_kind kind, const int *fds, size_t n_fds)
{
    struct writer writer;
    put_begin(&writer, kind, 0);
    return put_send(&writer, c->client, fds, n_fds);
}

static _Noreturn void fail(const struct command *c, int error, enum stage stage)
{
    struct writer writer;
    put_begin(&writer, SUDO_FAILED, 0);
    put_i32(&writer, error);
    put_u32(&writer, stage);
    put_send(&writer, c->client, NULL, 0);
    _exit(1);
}

static int tell_end(const struct command *c, int status)
{
    struct writer writer;
    put_begin(&writer, SUDO_ENDED, 0);
    put_i32(&writer, status);
    return put_send(&writer, c->client, NULL, 0);
}

static void parse(struct command *c, struct reader *body)
{
    size_t argc, n_env;
    c->flags = get_u32(body);
    c->size.ws_col = (unsigned short)get_u32(body);
    c->size.ws_row = (unsigned short)get_u32(body);
    struct bytes termios = get_bytes(body), who = get_bytes(body), group = get_bytes(body);
    c->directory = get_string(body);
    c->program = get_string(body);
    c->argv = get_strings(body, 0, &argc);
    c->env = get_strings(body, 0, &n_env);
    if (!get_end(body) || termios.size != sizeof c->termios || request.n_fds != N_FDS || !c->argv || !c->env)
        fail(c, EPROTO, STAGE_RESOURCES);
    memcpy(&c->termios, termios.data, sizeof c->termios);
    int error = user_find((const char *)who.data, who.size, &user);
    if (!error && group.size)
        error = group_find((const char *)group.data, group.size, &user.gid);
    if (error)
        fail(c, error, STAGE_USER);
}

/* Led by the monitor, owned by the user of the command. */
static void open_terminal(struct command *c)
{
    c->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (c->master < 0 || unlockpt(c->master))
        fail(c, errno, STAGE_RESOURCES);
    c->slave = ioctl(c->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (c->slave < 0 || ioctl(c->slave, TIOCSCTTY, 0) || fchown(c->slave, user.uid, (gid_t)-1))
        fail(c, errno, STAGE_RESOURCES);
    tcsetattr(c->slave, TCSANOW, &c->termios);
    ioctl(c->slave, TIOCSWINSZ, &c->size);
}

/* Like a login, `sudo -i` puts up with a home that is missing. */
static int enter_directory(const struct command *c)
{
    static char path[PATH_MAX];
    if (!*c->directory)
        return fchdir(request.fds[FD_DIRECTORY]) ? errno : 0;
    if (strcmp(c->directory, "~") == 0)
        return chdir(user.home) && chdir("/") ? errno : 0;
    int error = user_path(&user, c->directory, strlen(c->directory), path);
    return error ? error : chdir(path) ? errno : 0;
}

static void set_stdio(const struct command *c)
{
    for (int fd = 0; fd < 3; fd++) {
        uint32_t wanted = fd == 2 ? SUDO_TERMINAL_STDERR : SUDO_TERMINAL;
        if (dup2(c->flags & wanted ? c->slave : request.fds[FD_STDIN + fd], fd) < 0)
            fail(c, errno, STAGE_RESOURCES);
    }
}

/* Before it runs the command is what the terminal's keys act upon. It is in the background while it asks for that, so
 * SIGTTOU has to be blocked. */
static void take_foreground(const struct command *c)
{
    sigset_t stop;
    setpgid(0, 0);
    if (c->slave < 0)
        return;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    tcsetpgrp(c->slave, getpid());
}

static _Noreturn void run(struct command *c)
{
    take_foreground(c);
    child_begin(0);
    int error = user_become(&user);
    if (error)
        fail(c, error, STAGE_USER);
    error = enter_directory(c);
    if (error)
        fail(c, error, STAGE_CWD);
    set_stdio(c);
    tell(c, SUDO_STARTED, &c->master, c->master >= 0 ? 1 : 0);
    close_others(c->client, -1);
    error = execute(c->program, c->argv, c->env);
    fail(c, error, STAGE_EXEC);
}

/* A signal for the command, or the client has gone. */
static void read_client(struct command *c)
{
    int received = message_receive(c->client, &request);
    if (received == 0 || (received < 0 && errno != EBADMSG)) {
        kill(-c->pid, SIGKILL);
        _exit(0);
    }
    if (received < 0)
        return;
    uint32_t number = get_u32(&request.body);
    if (request.kind == SUDO_SIGNAL && get_end(&request.body) && number <= (uint32_t)SIGRTMAX)
        kill(-c->pid, (int)number);
    message_release(&request);
}

static void reap(struct command *c, int signals)
{
    struct signalfd_siginfo info;
    pid_t pid;
    int status;
    if (read(signals, &info, sizeof info) < 0)
        return;
    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
        if (pid != c->pid)
            continue;
        if (WIFSTOPPED(status)) {
            tell(c, SUDO_STOPPED, NULL, 0);
            continue;
        }
        tell_end(c, status);
        _exit(0);
    }
}

static _Noreturn void monitor(struct command *c, int signals)
{
    struct pollfd polled[] = {{.fd = signals, .events = POLLIN}, {.fd = c->client, .events = POLLIN}};
    for (;;) {
        if (poll(polled, 2, -1) < 0)
            continue;
        if (polled[0].revents)
            reap(c, signals);
        if (polled[1].revents)
            read_client(c);
    }
}

/* The monitor outlives every signal but SIGKILL, so that it can see the client go. */
static int block_signals(void)
{
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    return signalfd(-1, &child, SFD_CLOEXEC);
}

_Noreturn void sudo_child(int client)
{
    static struct command c = {.master = -1, .slave = -1};
    child_begin(REQUEST_SECONDS);
    close_others(client, -1);
    c.client = client;
    if (message_receive(client, &request) <= 0 || request.kind != SUDO_RUN)
        _exit(1);
    parse(&c, &request.body);
    if (!c.argv[0])
        _exit(tell_end(&c, 0) ? 1 : 0);
    alarm(0);
    setsid();
    if (c.flags & (SUDO_TERMINAL | SUDO_TERMINAL_STDERR))
        open_terminal(&c);
    int signals = block_signals();
    c.pid = fork();
    if (c.pid == 0)
        run(&c);
    if (c.pid < 0 || signals < 0)
        fail(&c, errno, STAGE_RESOURCES);
    setpgid(c.pid, c.pid); /* whoever of the two is first */
    close(c.master);
    close(c.slave); /* the master sees the end of the terminal when the command has let go of it */
    if (c.flags & SUDO_BACKGROUND)
        _exit(0);
    message_release(&request);
    monitor(&c, signals);
}
