/* Process 1 of a sandbox: one epoll loop that reaps, and serves the control connections of the host.
 *
 * Everything that could wait for the sandbox (files, users, execve) happens in forked children. What process 1 itself
 * has to tell the host (SPAWNED, EXITED, a worker that died) is kept in the table of tasks until the connection takes
 * it, so a host that reads slowly costs no memory and never blocks the loop; meanwhile its requests are not read. */
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"
#include "sudo.h"

static int epoll_fd, signal_fd;
static bool reap_again;
static const struct serve_config *config;
static struct message request;

static struct epoll_event event_of(uint32_t events, enum source source, uint32_t index)
{
    return (struct epoll_event){.events = events, .data.u64 = (uint64_t)source << 32 | index};
}

int loop_observe(int fd, uint32_t events, enum source source, uint32_t index)
{
    struct epoll_event event = event_of(events, source, index);
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void loop_change(int fd, uint32_t events, enum source source, uint32_t index)
{
    struct epoll_event event = event_of(events, source, index);
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

void loop_close(int fd)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
}

static int send_signal(void)
{
    uint32_t pid = get_u32(&request.body), number = get_u32(&request.body);
    if (!get_end(&request.body) || number > (uint32_t)SIGRTMAX)
        return EINVAL;
    return task_signal(pid, number);
}

static void carry_out(struct connection *connection)
{
    bool answered_by_child = true;
    int error = 0;
    switch (request.kind) {
    case KIND_SPAWN:
        error = task_start_process(connection, &request);
        break;
    case KIND_PING:
        answered_by_child = false;
        break;
    case KIND_SIGNAL:
        answered_by_child = false;
        error = send_signal();
        break;
    default:
        error = task_start_worker(connection, &request); /* answers ENOSYS to what does not exist */
    }
    if (answered_by_child && !error)
        return;
    struct answer a = error ? answer_error(request.id, error, STAGE_RESOURCES) : answer_begin(KIND_OK, request.id);
    connection_reply(connection, &a);
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
        connection_drop(connection);
    }
}

/* Room again: first what is waiting, in order; requests are read again once all of it has gone. */
static void flush(struct connection *connection)
{
    struct answer a = {.size = connection->unsent_size};
    connection_block(connection, false);
    if (a.size) {
        memcpy(a.data, connection->unsent, a.size);
        connection->unsent_size = 0;
        connection_reply(connection, &a);
    }
    task_flush(connection);
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

/* Edge triggered, so that running out of descriptors does not become a busy loop: accept until nothing is left. */
static void accept_connections(void)
{
    int fd;
    while ((fd = accept4(config->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        connection_adopt(fd);
}

static void on_child(void)
{
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) == sizeof info)
        ;
    reap_again = true;
}

static void dispatch(const struct epoll_event *event)
{
    uint32_t index = (uint32_t)event->data.u64;
    switch ((enum source)(event->data.u64 >> 32)) {
    case FROM_SIGNAL:
        on_child();
        return;
    case FROM_LISTENER:
        accept_connections();
        return;
    case FROM_SUDO:
        sudo_accept();
        return;
    case FROM_CONNECTION:
        on_connection(connection_at(index), event->events);
        return;
    case FROM_TASK:
        task_started((pid_t)index);
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
    return loop_observe(fd, EPOLLIN | EPOLLET, source, 0);
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
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (epoll_fd < 0 || signal_fd < 0 || loop_observe(signal_fd, EPOLLIN, FROM_SIGNAL, 0))
        return -1;
    /* Without sudo a sandbox still works. */
    if (config->n_sudo)
        observe_listener(sudo_listen(config), FROM_SUDO);
    return observe_listener(config->listen_fd, FROM_LISTENER);
}

static void begin(void)
{
    struct answer ready = answer_begin(KIND_READY, 0);
    connections_begin();
    connection_adopt(config->control_fd);
    connection_reply(connection_at(0), &ready);
}

int serve(const struct serve_config *given)
{
    config = given;
    if (prepare())
        return 1;
    begin();
    for (;;) {
        struct epoll_event events[16];
        int n = epoll_wait(epoll_fd, events, 16, reap_again ? 0 : -1);
        for (int i = 0; i < n; i++)
            dispatch(&events[i]);
        if (reap_again)
            reap_again = task_reap();
    }
}
