/* Connections of a copied machine belong to the one that it was copied from: a packet of the copy could end or corrupt
 * them. They are destroyed without a word to the other end; their programs are told that they were reset. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

/* linux/netlink.h, sock_diag.h and inet_diag.h, which not every C library finds. */
enum { SOCK_DIAG = 4, BY_FAMILY = 20, DESTROY = 21, REQUEST = 1, ACK = 4, DUMP = 0x300, ERROR = 2, DONE = 3 };

struct header {
    uint32_t size;
    uint16_t type, flags;
    uint32_t sequence, port;
};

struct socket_id {
    uint16_t source_port, port;
    uint32_t source[4], address[4], interface, cookie[2];
};

struct request {
    uint8_t family, protocol, extensions, padding;
    uint32_t states;
    struct socket_id id;
};

struct socket_message {
    uint8_t family, state, timer, retransmissions;
    struct socket_id id;
    uint32_t expires, receive_queue, send_queue, uid, inode;
};

enum { MAX_SOCKETS = 4096, MAX_ROUNDS = 16, BUFFER = 32768 };

static struct socket_message found[MAX_SOCKETS];

static int send_request(int fd, const struct request *request, uint16_t type, uint16_t flags)
{
    struct {
        struct header header;
        struct request request;
    } message = {.header = {sizeof message, type, REQUEST | flags, 0, 0}, .request = *request};
    return send(fd, &message, sizeof message, 0) < 0 ? -1 : 0;
}

/* Both ends are in this machine: they were copied together. */
static bool internal(const struct socket_message *m)
{
    size_t size = m->family == AF_INET ? 4 : 16;
    const uint8_t *address = (const uint8_t *)m->id.address;
    bool loopback = m->family == AF_INET && address[0] == 127;
    return loopback || memcmp(m->id.source, m->id.address, size) == 0;
}

/* Take what one datagram says; 1: it was the last one, 0: more comes, -1: it failed. */
static int take(const char *at, size_t left, int *n)
{
    struct header h;
    struct socket_message m;
    while (left >= sizeof h) {
        memcpy(&h, at, sizeof h);
        if (h.type == DONE)
            return 1;
        if (h.type == ERROR || h.size < sizeof h + sizeof m || h.size > left)
            return -1;
        memcpy(&m, at + sizeof h, sizeof m);
        if (*n < MAX_SOCKETS && !internal(&m))
            found[(*n)++] = m;
        size_t step = (h.size + 3u) & ~3u;
        at += step;
        left -= step < left ? step : left;
    }
    return 0;
}

/* The number of sockets, or -1. */
static int collect(int fd)
{
    static char buffer[BUFFER];
    int n = 0;
    for (;;) {
        ssize_t size = recv(fd, buffer, sizeof buffer, 0);
        int taken = size < 0 ? -1 : take(buffer, (size_t)size, &n);
        if (taken != 0)
            return taken < 0 ? -1 : n;
    }
}

static int destroy(int fd, const struct socket_message *m)
{
    const struct request request = {.family = m->family, .protocol = IPPROTO_TCP, .id = m->id, .states = ~0u};
    char answer[512];
    if (send_request(fd, &request, DESTROY, ACK))
        return -1;
    return recv(fd, answer, sizeof answer, 0) < 0 ? -1 : 0;
}

/* Listening sockets stay: a copied server goes on serving. */
static int reset_family(int fd, int family)
{
    const struct request request = {
        .family = (uint8_t)family,
        .protocol = IPPROTO_TCP,
        .states = ~(1u << TCP_LISTEN | 1u << TCP_CLOSE | 1u << TCP_TIME_WAIT),
    };
    int n = MAX_SOCKETS;
    for (int round = 0; round < MAX_ROUNDS && n == MAX_SOCKETS; round++) {
        if (send_request(fd, &request, BY_FAMILY, DUMP) || (n = collect(fd)) < 0)
            return -1;
        for (int i = 0; i < n; i++)
            if (destroy(fd, &found[i]))
                return -1;
    }
    return 0;
}

int sockets_reset(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, SOCK_DIAG);
    int error = fd < 0 || reset_family(fd, AF_INET) || reset_family(fd, AF_INET6) ? errno : 0;
    close(fd);
    return error;
}
