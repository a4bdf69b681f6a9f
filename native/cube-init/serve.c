/* Process 1 of a sandbox: one epoll loop that reaps, and serves the control connections of the host.
 *
 * Everything that could wait for the sandbox (files, users, execve) happens in forked children. What process 1 itself
 * has to tell the host (SPAWNED, EXITED, a worker that died) is kept in the table of tasks until the connection takes
 * it, so a host that reads slowly costs no memory and never blocks the loop; meanwhile its requests are not read. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "children.h"
#include "sudo.h"
#include "wire.h"

enum {
    MAX_CONNECTIONS = 16,
    MAX_TASKS = 16384,   /* spawned processes and workers at the same time; the pids limit is usually lower */
    MAX_STARTING = 128,  /* spawned, not yet executed: each holds four descriptors here */
    MAX_ANSWER = 32,
    REAP_AT_ONCE = 256,  /* a storm of orphans must not keep the loop from its connections */
};

enum source { FROM_SIGNAL, FROM_LISTENER, FROM_SUDO, FROM_CONNECTION, FROM_TASK };

struct connection {
    int fd; /* -1: free */
    bool blocked;
    size_t unsent_size;
    uint8_t unsent[MAX_ANSWER]; /* answer to a PING or SIGNAL that did not fit */
};

enum state { FREE, WORKER, STARTING, RUNNING, FAILED };

/* A child that the host will hear of. Orphans and sudo's children are not here, they are just reaped. */
struct task {
    enum state state;
    pid_t pid;
    uint32_t id;
    struct connection *connection; /* NULL: lost, nobody to tell */
    int report;                    /* while STARTING, until the child has executed or failed; else -1 */
    struct spawn_report outcome;
    int fds[SPAWN_MAX_FDS];
    size_t n_fds;
    bool reaped;
    int wait_status;
};

static struct connection connections[MAX_CONNECTIONS];
static struct task tasks[MAX_TASKS];
static size_t tasks_used; /* beyond it every task is FREE */
static size_t starting;
static bool reap_again;
static int epoll_fd, signal_fd;
static const struct serve_config *config;
static struct message request;

static uint64_t mark(enum source source, size_t index)
{
    return (uint64_t)source << 32 | index;
}

static int observe(int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(epoll_fd, operation, fd, &event);
}

/* --- connections --- */

static void set_blocked(struct connection *connection, bool blocked)
{
    if (connection->blocked == blocked)
        return;
    connection->blocked = blocked;
    uint64_t data = mark(FROM_CONNECTION, (size_t)(connection - connections));
    observe(EPOLL_CTL_MOD, connection->fd, blocked ? EPOLLOUT : EPOLLIN, data);
}

/* Always before close(): while a child still holds a copy, epoll would go on reporting a descriptor that is gone here. */
static void forget(int fd)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
}

/* The host has gone. What runs goes on running. */
static void drop(struct connection *connection)
{
    forget(connection->fd);
    *connection = (struct connection){.fd = -1};
    for (size_t i = 0; i < tasks_used; i++)
        if (tasks[i].connection == connection)
            tasks[i].connection = NULL;
}

static void adopt_connection(int fd)
{
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].fd >= 0)
            continue;
        connections[i] = (struct connection){.fd = fd};
        if (observe(EPOLL_CTL_ADD, fd, EPOLLIN, mark(FROM_CONNECTION, i)) == 0)
            return;
        connections[i].fd = -1;
        break;
    }
    close(fd);
}

struct answer {
    size_t size;
    uint8_t data[MAX_ANSWER];
};

static void add(struct answer *a, uint32_t value)
{
    memcpy(a->data + a->size, &value, sizeof value);
    a->size += sizeof value;
}

static struct answer begin(uint32_t kind, uint32_t id)
{
    struct answer a = {0};
    add(&a, kind);
    add(&a, id);
    return a;
}

static struct answer error_answer(uint32_t id, int error, enum stage stage)
{
    struct answer a = begin(KIND_ERROR, id);
    add(&a, (uint32_t)error);
    add(&a, stage);
    add(&a, 0); /* no detail */
    return a;
}

static int send_now(int fd, const struct answer *a, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof(int) * SPAWN_MAX_FDS)];
    } control = {0};
    struct iovec part = {(void *)a->data, a->size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (n_fds) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    return sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
}

/* 0: sent, or nobody is left to send it to (*connection is NULL then); EAGAIN: later; else what the kernel objects to. */
static int tell(struct connection **connection, const struct answer *a, const int *fds, size_t n_fds)
{
    struct connection *c = *connection;
    if (c == NULL)
        return 0;
    int error = c->blocked ? EAGAIN : send_now(c->fd, a, fds, n_fds);
    if (error == EAGAIN)
        set_blocked(c, true);
    if (error == EPIPE || error == ECONNRESET || error == ENOTCONN) {
        drop(c);
        *connection = NULL;
        return 0;
    }
    return error;
}

/* For what is not backed by a task: kept in the connection when it does not fit. */
static void reply(struct connection *connection, const struct answer *a)
{
    struct connection *c = connection;
    if (tell(&c, a, NULL, 0) == EAGAIN) {
        memcpy(connection->unsent, a->data, a->size);
        connection->unsent_size = a->size;
    }
}

/* --- tasks --- */

static struct task *add_task(enum state state, pid_t pid, struct connection *connection, uint32_t id)
{
    for (size_t i = 0; i < MAX_TASKS; i++) {
        if (tasks[i].state != FREE)
            continue;
        if (i >= tasks_used)
            tasks_used = i + 1;
        tasks[i] = (struct task){.state = state, .pid = pid, .id = id, .connection = connection, .report = -1};
        return &tasks[i];
    }
    return NULL;
}

static void remove_task(struct task *task)
{
    task->state = FREE;
    task->connection = NULL;
    while (tasks_used && tasks[tasks_used - 1].state == FREE)
        tasks_used--;
}

static void close_fds(struct task *task)
{
    for (size_t i = 0; i < task->n_fds; i++)
        close(task->fds[i]);
    task->n_fds = 0;
}

/* The child has executed, failed or died: read what it reported. */
static void collect_reports(struct task *task)
{
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof(int) * SPAWN_MAX_FDS)];
    } control;
    struct spawn_report report;
    struct iovec part = {&report, sizeof report};
    task->outcome = (struct spawn_report){EIO, STAGE_RESOURCES}; /* died before it said anything */
    for (;;) {
        struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (recvmsg(task->report, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof report)
            break;
        task->outcome = report;
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        if (c != NULL && c->cmsg_type == SCM_RIGHTS && task->n_fds == 0) {
            task->n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(task->fds, CMSG_DATA(c), task->n_fds * sizeof(int));
        }
    }
    forget(task->report);
    task->report = -1;
    starting--;
}

/* Tell the host how the start went; false: not now. A process whose start nobody learnt of is ended. */
static bool announce(struct task *task)
{
    struct answer a = error_answer(task->id, task->outcome.error, task->outcome.stage);
    int error = 0;
    if (task->outcome.error == 0) {
        a = begin(KIND_SPAWNED, task->id);
        add(&a, (uint32_t)task->pid);
        error = tell(&task->connection, &a, task->fds, task->n_fds);
    }
    if (error != 0 && error != EAGAIN) {
        task->outcome = (struct spawn_report){EAGAIN, STAGE_RESOURCES};
        a = error_answer(task->id, EAGAIN, STAGE_RESOURCES);
    }
    if (task->outcome.error != 0)
        error = tell(&task->connection, &a, NULL, 0);
    if (error == EAGAIN)
        return false;
    close_fds(task);
    task->state = task->outcome.error == 0 && task->connection != NULL ? RUNNING : FAILED;
    if (task->state == FAILED && !task->reaped)
        kill(task->pid, SIGKILL);
    return true;
}

static bool report_end(struct task *task)
{
    struct answer a = begin(KIND_EXITED, task->id);
    add(&a, (uint32_t)task->pid);
    add(&a, (uint32_t)task->wait_status);
    return tell(&task->connection, &a, NULL, 0) != EAGAIN;
}

/* A worker answers by itself; one that was killed (out of memory, time limit) could not. */
static bool report_worker(struct task *task)
{
    if (task->wait_status == 0)
        return true;
    bool late = WIFSIGNALED(task->wait_status) && WTERMSIG(task->wait_status) == SIGALRM;
    struct answer a = error_answer(task->id, late ? ETIMEDOUT : EIO, STAGE_RESOURCES);
    return tell(&task->connection, &a, NULL, 0) != EAGAIN;
}

/* Take the task as far as it can go now. */
static void advance(struct task *task)
{
    if (task->state == STARTING && (task->report >= 0 || !announce(task)))
        return;
    if (!task->reaped)
        return;
    if (task->state == RUNNING && !report_end(task))
        return;
    if (task->state == WORKER && !report_worker(task))
        return;
    remove_task(task);
}

static struct task *find_task(pid_t pid)
{
    for (size_t i = 0; i < tasks_used; i++)
        if (tasks[i].state != FREE && tasks[i].pid == pid && !tasks[i].reaped)
            return &tasks[i];
    return NULL;
}

static void reap(void)
{
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) == sizeof info)
        ;
    reap_again = false;
    for (int i = 0; i < REAP_AT_ONCE; i++) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
        if (pid <= 0)
            return;
        struct task *task = find_task(pid);
        if (task == NULL)
            continue;
        task->reaped = true;
        task->wait_status = status;
        if (task->report >= 0)
            collect_reports(task);
        advance(task);
    }
    reap_again = true;
}

/* --- requests --- */

static void refuse(struct connection *connection, int error)
{
    struct answer a = error_answer(request.id, error, STAGE_RESOURCES);
    reply(connection, &a);
}

static void start_worker(struct connection *connection)
{
    pid_t pid = fork();
    if (pid == 0)
        worker_child(&request, connection->fd);
    if (pid < 0)
        refuse(connection, errno);
    else
        /* Without room in the table the worker still answers; only its sudden death would go unnoticed. */
        add_task(WORKER, pid, connection, request.id);
}

static void start_process(struct connection *connection)
{
    int pair[2];
    struct task *task = starting < MAX_STARTING ? add_task(STARTING, 0, connection, request.id) : NULL;
    if (task == NULL) {
        refuse(connection, EAGAIN);
        return;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        refuse(connection, errno);
        remove_task(task);
        return;
    }
    task->pid = fork();
    if (task->pid == 0)
        spawn_child(&request, pair[1]);
    close(pair[1]);
    /* No events: only that the other end has closed matters, and EPOLLHUP always comes. */
    if (task->pid < 0 || observe(EPOLL_CTL_ADD, pair[0], 0, mark(FROM_TASK, (uint32_t)task->pid))) {
        if (task->pid > 0)
            kill(task->pid, SIGKILL);
        close(pair[0]);
        refuse(connection, EAGAIN);
        remove_task(task);
        return;
    }
    task->report = pair[0];
    starting++;
}

static int send_signal(void)
{
    uint32_t pid = get_u32(&request.body), number = get_u32(&request.body);
    if (!get_end(&request.body) || number > (uint32_t)SIGRTMAX)
        return EINVAL;
    struct task *task = pid <= INT32_MAX ? find_task((pid_t)pid) : NULL;
    if (task == NULL || task->state != RUNNING)
        return ESRCH;
    return kill(task->pid, (int)number) ? errno : 0;
}

static void carry_out(struct connection *connection)
{
    if (request.kind == KIND_SPAWN) {
        start_process(connection);
        return;
    }
    if (request.kind >= KIND_OPEN && request.kind <= KIND_USER) {
        start_worker(connection);
        return;
    }
    int error = ENOSYS;
    if (request.kind == KIND_PING)
        error = 0;
    else if (request.kind == KIND_SIGNAL)
        error = send_signal();
    struct answer a = error ? error_answer(request.id, error, STAGE_RESOURCES) : begin(KIND_OK, request.id);
    reply(connection, &a);
}

/* The buffer held a user's environment; children of other users are copies of this memory. */
static void forget_request(void)
{
    uint8_t *end = request.body.end;
    bool in_storage = end >= request.storage && end <= request.storage + sizeof request.storage;
    explicit_bzero(request.storage, in_storage ? (size_t)(end - request.storage) : WIRE_HEADER);
    message_release(&request);
}

/* One request; epoll comes back for more, so connections take turns. */
static void read_request(struct connection *connection)
{
    /* An event may be stale (its connection dropped, the slot taken by the next one): never wait for a message. */
    if (recv(connection->fd, NULL, 0, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN)
        return;
    int received = message_receive(connection->fd, &request);
    if (received > 0) {
        carry_out(connection);
        forget_request();
    } else if (received == 0 || (errno != EBADMSG && errno != EAGAIN && errno != EINTR)) {
        drop(connection);
    }
}

/* Room again: first what is waiting, in order; requests are read again once all of it has gone. */
static void flush(struct connection *connection)
{
    set_blocked(connection, false);
    struct answer a = {.size = connection->unsent_size};
    if (a.size) {
        memcpy(a.data, connection->unsent, a.size);
        connection->unsent_size = 0;
        reply(connection, &a);
    }
    for (size_t i = 0; i < tasks_used && connection->fd >= 0 && !connection->blocked; i++)
        if (tasks[i].state != FREE && tasks[i].connection == connection)
            advance(&tasks[i]);
}

/* --- the loop --- */

/* Edge triggered, so that running out of descriptors does not become a busy loop: accept until nothing is left. */
static void accept_connections(void)
{
    int fd;
    while ((fd = accept4(config->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        adopt_connection(fd);
}

static void on_connection(struct connection *connection, uint32_t events)
{
    if (connection->fd < 0)
        return;
    if (connection->blocked && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
        flush(connection);
    else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_request(connection);
}

/* By pid, not by slot: reap() may have collected it in this same round and the slot may be another's by now. */
static void on_started(pid_t pid)
{
    struct task *task = find_task(pid);
    if (task == NULL || task->report < 0)
        return;
    collect_reports(task);
    advance(task);
}

static void dispatch(const struct epoll_event *event)
{
    size_t index = (uint32_t)event->data.u64;
    switch ((enum source)(event->data.u64 >> 32)) {
    case FROM_SIGNAL:
        reap();
        return;
    case FROM_LISTENER:
        accept_connections();
        return;
    case FROM_SUDO:
        sudo_accept();
        return;
    case FROM_CONNECTION:
        on_connection(&connections[index], event->events);
        return;
    case FROM_TASK:
        on_started((pid_t)index);
        return;
    }
}

static int observe_listener(int fd, enum source source)
{
    if (fd < 0)
        return 0;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
        return -1;
    return observe(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, mark(source, 0));
}

static int prepare(void)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    /* As an ordinary process (serve-test) orphans come here, too; process 1 has them anyway. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_DUMPABLE, 0);
    for (size_t i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = -1;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (epoll_fd < 0 || signal_fd < 0 || observe(EPOLL_CTL_ADD, signal_fd, EPOLLIN, mark(FROM_SIGNAL, 0)))
        return -1;
    /* Without sudo a sandbox still works. */
    if (config->n_sudo)
        observe_listener(sudo_listen(config), FROM_SUDO);
    return observe_listener(config->listen_fd, FROM_LISTENER);
}

int serve(const struct serve_config *given)
{
    config = given;
    if (prepare())
        return 1;
    adopt_connection(config->control_fd);
    struct answer ready = begin(KIND_READY, 0);
    reply(&connections[0], &ready);
    for (;;) {
        struct epoll_event events[16];
        int n = epoll_wait(epoll_fd, events, 16, reap_again ? 0 : -1);
        for (int i = 0; i < n; i++)
            dispatch(&events[i]);
        if (reap_again)
            reap();
    }
}
