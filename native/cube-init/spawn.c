/* The child that becomes a process of the sandbox. */
#include "children.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STDIN = 1, TERMINAL = 2 }; /* flags of SPAWN */
enum { START_SECONDS = 30 };

struct spawn {
    uint32_t flags;
    struct winsize size;
    struct bytes user, cwd;
    char **argv, **env;
    int report;
    int host_fds[SPAWN_MAX_FDS]; /* the host's ends of stdio */
    size_t n_fds;
};

static struct user user;

static bool has(char **env, size_t n, const char *assignment)
{
    size_t name = strcspn(assignment, "=") + 1;
    for (size_t i = 0; i < n; i++)
        if (strncmp(env[i], assignment, name) == 0)
            return true;
    return false;
}

/* What the request does not set itself. */
static void add_defaults(char **env, size_t n)
{
    static char home[PATH_MAX + 8], name[272], logname[272], shell[PATH_MAX + 8];
    snprintf(home, sizeof home, "HOME=%s", user.home);
    snprintf(name, sizeof name, "USER=%s", user.name);
    snprintf(logname, sizeof logname, "LOGNAME=%s", user.name);
    snprintf(shell, sizeof shell, "SHELL=%s", user.shell);
    char *defaults[] = {DEFAULT_PATH, home, name, logname, shell};
    size_t given = n;
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (!has(env, given, defaults[i]))
            env[n++] = defaults[i];
}

static int parse(struct spawn *s, struct reader *body)
{
    size_t argc, n_env;
    s->flags = get_u32(body);
    s->size.ws_col = (unsigned short)get_u32(body);
    s->size.ws_row = (unsigned short)get_u32(body);
    s->user = get_bytes(body);
    s->cwd = get_bytes(body);
    s->argv = get_strings(body, 0, &argc);
    s->env = get_strings(body, DEFAULT_VARIABLES, &n_env);
    if (s->argv == NULL || s->env == NULL)
        return ENOMEM;
    if (!get_end(body) || argc == 0)
        return EPROTO;
    int error = user_find((const char *)s->user.data, s->user.size, &user);
    if (!error)
        add_defaults(s->env, n_env);
    return error;
}

/* An empty cwd means home, and / when that is missing. */
static int enter_directory(struct bytes cwd)
{
    static char path[PATH_MAX];
    if (cwd.size == 0)
        return chdir(user.home) && chdir("/") ? errno : 0;
    int error = user_path(&user, (const char *)cwd.data, cwd.size, path);
    return error ? error : chdir(path) ? errno : 0;
}

/* TIOCGPTPEER opens the slave without a path: the sandbox may have mounted anything over /dev/pts. */
static int open_terminal(struct spawn *s)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || unlockpt(master))
        return errno;
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || ioctl(slave, TIOCSWINSZ, &s->size) || ioctl(slave, TIOCSCTTY, 0))
        return errno;
    for (int fd = 0; fd < 3; fd++)
        if (dup2(slave, fd) < 0)
            return errno;
    s->host_fds[s->n_fds++] = master;
    return 0;
}

/* A pipe with its near end on descriptor `fd` (0 is read here, others are written). Made by the user, who therefore
 * owns it and may open it again as /dev/stdout. */
static int open_pipe(struct spawn *s, int fd)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return errno;
    if (dup2(ends[fd != 0], fd) < 0)
        return errno;
    s->host_fds[s->n_fds++] = ends[fd == 0];
    return 0;
}

static int open_stdin(struct spawn *s)
{
    if (s->flags & STDIN)
        return open_pipe(s, 0);
    int null = open("/dev/null", O_RDONLY | O_NOCTTY | O_CLOEXEC);
    return null < 0 || dup2(null, 0) < 0 ? errno : 0;
}

static int open_stdio(struct spawn *s)
{
    if (s->flags & TERMINAL)
        return open_terminal(s);
    int error = open_stdin(s);
    if (!error)
        error = open_pipe(s, 1);
    return error ? error : open_pipe(s, 2);
}

static void report(const struct spawn *s, int error, enum stage stage)
{
    struct spawn_report message = {error, error ? stage : 0};
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof s->host_fds)];
    } control = {0};
    struct iovec part = {&message, sizeof message};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (!error) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * s->n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * s->n_fds);
        memcpy(CMSG_DATA(c), s->host_fds, sizeof(int) * s->n_fds);
    }
    if (sendmsg(s->report, &header, MSG_NOSIGNAL) < 0 && !error)
        report(s, errno, STAGE_RESOURCES);
}

static int prepare(struct spawn *s, struct reader *body, enum stage *stage)
{
    *stage = STAGE_USER;
    int error = parse(s, body);
    if (!error)
        error = user_become(&user);
    if (error)
        return error;
    *stage = STAGE_CWD;
    error = enter_directory(s->cwd);
    if (error)
        return error;
    *stage = STAGE_RESOURCES;
    setsid();
    return open_stdio(s);
}

_Noreturn void spawn_child(struct message *request, int report_fd)
{
    static struct spawn s;
    enum stage stage;
    child_begin(START_SECONDS);
    close_others(report_fd, -1);
    s.report = report_fd;
    int error = prepare(&s, &request->body, &stage);
    if (!error) {
        report(&s, 0, 0);
        for (size_t i = 0; i < s.n_fds; i++)
            close(s.host_fds[i]);
        error = execute(s.argv[0], s.argv, s.env);
        stage = STAGE_EXEC;
    }
    report(&s, error, stage);
    _exit(127);
}
