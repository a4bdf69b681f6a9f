#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

/* The next `size` bytes, or NULL. */
static uint8_t *get_raw(struct reader *reader, size_t size)
{
    if (reader->bad || (size_t)(reader->end - reader->at) < size) {
        reader->bad = true;
        return NULL;
    }
    uint8_t *here = reader->at;
    reader->at += size;
    return here;
}

/* memcpy, because fields are not aligned. */
#define DEFINE_GET(type, name)                             \
    type name(struct reader *reader)                       \
    {                                                      \
        type value = 0;                                    \
        const uint8_t *raw = get_raw(reader, sizeof value); \
        if (raw != NULL)                                   \
            memcpy(&value, raw, sizeof value);             \
        return value;                                      \
    }
DEFINE_GET(uint16_t, get_u16)
DEFINE_GET(uint32_t, get_u32)
DEFINE_GET(int32_t, get_i32)
DEFINE_GET(uint64_t, get_u64)
DEFINE_GET(int64_t, get_i64)

struct bytes get_bytes(struct reader *reader)
{
    uint32_t size = get_u32(reader);
    const uint8_t *data = get_raw(reader, size);
    return data == NULL ? (struct bytes){.data = (const uint8_t *)""} : (struct bytes){data, size};
}

char *get_string(struct reader *reader)
{
    static char empty[1];
    uint32_t size = get_u32(reader);
    uint8_t *data = get_raw(reader, size);
    if (data == NULL || memchr(data, 0, size) != NULL) {
        reader->bad = true;
        return empty[0] = 0, empty;
    }
    char *string = (char *)data - sizeof size;
    memmove(string, data, size);
    string[size] = 0;
    return string;
}

uint32_t get_count(struct reader *reader, size_t item_size)
{
    uint32_t count = get_u32(reader);
    if (count > (size_t)(reader->end - reader->at) / item_size)
        reader->bad = true;
    return reader->bad ? 0 : count;
}

bool get_end(const struct reader *reader)
{
    return !reader->bad && reader->at == reader->end;
}

/* Room for the descriptors of one message, aligned as the kernel wants it. */
union control {
    struct cmsghdr align;
    char data[CMSG_SPACE(sizeof(int) * WIRE_MAX_FDS)];
};

static void adopt_fds(struct message *message, struct msghdr *header)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        message->n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(message->fds, CMSG_DATA(c), message->n_fds * sizeof(int));
    }
}

/* Map the memory file that holds a long body. Without the seals the peer could change it while it is read. Private and
 * writable, because strings are terminated in place. */
static int map_body(struct message *message)
{
    uint64_t size = get_u64(&message->body);
    if (!get_end(&message->body) || message->n_fds == 0 || size == 0 || size > WIRE_BODY_MAX)
        return -1;
    int fd = message->fds[message->n_fds - 1];
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & BODY_SEALS) != BODY_SEALS || lseek(fd, 0, SEEK_END) != (off_t)size)
        return -1;
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return -1;
    close(message->fds[--message->n_fds]);
    message->mapping = map;
    message->mapping_size = size;
    message->body = (struct reader){.at = map, .end = (uint8_t *)map + size};
    return 0;
}

static int parse(struct message *message, size_t size, int flags)
{
    message->body = (struct reader){.at = message->storage, .end = message->storage + size};
    message->kind = get_u32(&message->body);
    message->id = get_u32(&message->body);
    if (message->body.bad || (flags & (MSG_TRUNC | MSG_CTRUNC)))
        return -1;
    if ((message->kind & WIRE_BIG) == 0)
        return 0;
    message->kind &= ~WIRE_BIG;
    return map_body(message);
}

int message_receive(int socket, struct message *message)
{
    union control control;
    struct iovec data = {message->storage, sizeof message->storage};
    struct msghdr header = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size;
    do
        size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size <= 0)
        return (int)size;
    message->n_fds = 0;
    message->mapping = NULL;
    adopt_fds(message, &header);
    if (parse(message, (size_t)size, header.msg_flags) == 0)
        return 1;
    message_release(message);
    errno = EBADMSG;
    return -1;
}

int message_take_fd(struct message *message, uint32_t index)
{
    if (index >= message->n_fds)
        return -1;
    int fd = message->fds[index];
    message->fds[index] = -1;
    return fd;
}

void message_release(struct message *message)
{
    for (size_t i = 0; i < message->n_fds; i++)
        if (message->fds[i] >= 0)
            close(message->fds[i]);
    message->n_fds = 0;
    if (message->mapping != NULL)
        munmap(message->mapping, message->mapping_size);
    message->mapping = NULL;
}

/* Room for `size` more bytes, or NULL. */
static uint8_t *put_raw(struct writer *writer, size_t size)
{
    if (writer->bad || size > WIRE_BODY_MAX + WIRE_HEADER - writer->used) {
        writer->bad = true;
        return NULL;
    }
    size_t needed = writer->used + size;
    if (needed > writer->capacity) {
        size_t capacity = needed < 512 ? 512 : needed * 2;
        uint8_t *data = realloc(writer->data, capacity);
        if (data == NULL) {
            writer->bad = true;
            return NULL;
        }
        writer->data = data;
        writer->capacity = capacity;
    }
    uint8_t *here = writer->data + writer->used;
    writer->used = needed;
    return here;
}

#define DEFINE_PUT(type, name)                        \
    void name(struct writer *writer, type value)      \
    {                                                 \
        uint8_t *raw = put_raw(writer, sizeof value); \
        if (raw != NULL)                              \
            memcpy(raw, &value, sizeof value);        \
    }
DEFINE_PUT(uint16_t, put_u16)
DEFINE_PUT(uint32_t, put_u32)
DEFINE_PUT(int32_t, put_i32)
DEFINE_PUT(uint64_t, put_u64)
DEFINE_PUT(int64_t, put_i64)

void put_begin(struct writer *writer, uint32_t kind, uint32_t id)
{
    *writer = (struct writer){0};
    put_u32(writer, kind);
    put_u32(writer, id);
}

void put_bytes(struct writer *writer, const void *data, size_t size)
{
    if (size > WIRE_BODY_MAX) {
        writer->bad = true;
        return;
    }
    put_u32(writer, (uint32_t)size);
    uint8_t *raw = put_raw(writer, size);
    if (raw != NULL && size != 0)
        memcpy(raw, data, size);
}

void put_string(struct writer *writer, const char *string)
{
    put_bytes(writer, string, strlen(string));
}

void put_u32_at(struct writer *writer, size_t at, uint32_t value)
{
    if (!writer->bad)
        memcpy(writer->data + at, &value, sizeof value);
}

void put_discard(struct writer *writer)
{
    free(writer->data);
    *writer = (struct writer){.bad = true};
}

static int write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        data += written;
        size -= (size_t)written;
    }
    return 0;
}

/* A sealed memory file with these bytes. */
static int memory_file(const uint8_t *data, size_t size)
{
    int fd = memfd_create("cube-body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (write_all(fd, data, size) == 0 && fcntl(fd, F_ADD_SEALS, BODY_SEALS | F_SEAL_SEAL) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int send_datagram(int socket, const uint8_t *data, size_t size, const int *fds, size_t n_fds)
{
    union control control = {0};
    struct iovec part = {(void *)data, size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (n_fds > 0) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &header, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

/* The message as a header and a memory file. */
static int send_big(int socket, const uint8_t *data, size_t size, const int *fds, size_t n_fds)
{
    uint64_t body_size = size - WIRE_HEADER;
    uint8_t envelope[WIRE_HEADER + sizeof body_size];
    uint32_t kind;
    memcpy(&kind, data, sizeof kind);
    kind |= WIRE_BIG;
    memcpy(envelope, data, WIRE_HEADER);
    memcpy(envelope, &kind, sizeof kind);
    memcpy(envelope + WIRE_HEADER, &body_size, sizeof body_size);

    int all[WIRE_MAX_FDS];
    if (n_fds > 0)
        memcpy(all, fds, n_fds * sizeof *fds);
    all[n_fds] = memory_file(data + WIRE_HEADER, body_size);
    if (all[n_fds] < 0)
        return -1;
    int result = send_datagram(socket, envelope, sizeof envelope, all, n_fds + 1);
    int saved = errno;
    close(all[n_fds]);
    errno = saved;
    return result;
}

int message_send(int socket, const uint8_t *data, size_t size, const int *fds, size_t n_fds)
{
    bool fits = size <= WIRE_INLINE_MAX;
    return (fits ? send_datagram : send_big)(socket, data, size, fds, n_fds);
}

int put_send(struct writer *writer, int socket, const int *fds, size_t n_fds)
{
    if (writer->bad || n_fds >= WIRE_MAX_FDS) {
        put_discard(writer);
        errno = EMSGSIZE;
        return -1;
    }
    int result = message_send(socket, writer->data, writer->used, fds, n_fds);
    int saved = errno;
    put_discard(writer);
    errno = saved;
    return result;
}

int send_error(int socket, uint32_t id, int error, uint32_t stage, const char *detail)
{
    struct writer writer;
    put_begin(&writer, KIND_ERROR, id);
    put_i32(&writer, error);
    put_u32(&writer, stage);
    put_string(&writer, detail == NULL ? "" : detail);
    return put_send(&writer, socket, NULL, 0);
}
