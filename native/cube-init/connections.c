/* Connections to the host. What a slow one has not taken yet waits here or in the table of tasks, never in memory that
 * grows. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"

static struct connection connections[MAX_CONNECTIONS];

void connections_begin(void)
{
    for (size_t i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = -1;
}

struct connection *connection_at(size_t index)
{
    return &connections[index];
}

void connection_block(struct connection *connection, bool blocked)
{
    if (connection->blocked == blocked)
        return;
    connection->blocked = blocked;
    loop_change(connection->fd, blocked ? EPOLLOUT : EPOLLIN, FROM_CONNECTION, (uint32_t)(connection - connections));
}

void connection_drop(struct connection *connection)
{
    loop_close(connection->fd);
    *connection = (struct connection){.fd = -1};
    task_forget(connection);
}

void connection_adopt(int fd)
{
    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].fd >= 0)
            continue;
        connections[i] = (struct connection){.fd = fd};
        if (loop_observe(fd, EPOLLIN, FROM_CONNECTION, (uint32_t)i) == 0)
            return;
        connections[i].fd = -1;
        break;
    }
    close(fd);
}

void answer_add(struct answer *a, uint32_t value)
{
    memcpy(a->data + a->size, &value, sizeof value);
    a->size += sizeof value;
}

struct answer answer_begin(uint32_t kind, uint32_t id)
{
    struct answer a = {0};
    answer_add(&a, kind);
    answer_add(&a, id);
    return a;
}

struct answer answer_error(uint32_t id, int error, enum stage stage)
{
    struct answer a = answer_begin(KIND_ERROR, id);
    answer_add(&a, (uint32_t)error);
    answer_add(&a, stage);
    answer_add(&a, 0); /* no detail */
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

int connection_tell(struct connection **connection, const struct answer *a, const int *fds, size_t n_fds)
{
    struct connection *c = *connection;
    if (c == NULL)
        return 0;
    int error = c->blocked ? EAGAIN : send_now(c->fd, a, fds, n_fds);
    if (error == EAGAIN)
        connection_block(c, true);
    if (error == EPIPE || error == ECONNRESET || error == ENOTCONN) {
        connection_drop(c);
        *connection = NULL;
        return 0;
    }
    return error;
}

void connection_reply(struct connection *connection, const struct answer *a)
{
    struct connection *c = connection;
    if (connection_tell(&c, a, NULL, 0) == EAGAIN) {
        memcpy(connection->unsent, a->data, a->size);
        connection->unsent_size = a->size;
    }
}
