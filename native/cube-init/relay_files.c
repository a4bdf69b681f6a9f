/* What the host does with the files that it has opened. They are regular files: reading and writing them ends. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "channels.h"
#include "children.h"
#include "relay.h"

enum { READ_MAX = 262144, VALUE_MAX = 65536 };

void answer_status(uint32_t id, int error)
{
    struct writer writer;
    put_begin(&writer, error ? KIND_ERROR : KIND_OK, id);
    if (error) {
        put_i32(&writer, error);
        put_u32(&writer, STAGE_PATH);
        put_string(&writer, "");
    }
    answer_host(&writer);
}

/* The descriptor of an open file, or -1. */
static int file_of(uint32_t number)
{
    const struct channel *c = channel_of(number);
    return c != NULL && c->type == CHANNEL_FILE ? c->fd : -1;
}

/* A first read of nothing would be taken for the end. */
void file_read(struct reader *body, uint32_t id)
{
    int fd = file_of(get_u32(body));
    uint64_t offset = get_u64(body);
    uint32_t size = get_u32(body);
    if (!get_end(body) || size > READ_MAX || offset > INT64_MAX) {
        answer_status(id, EPROTO);
        return;
    }
    uint8_t *data = malloc(size ? size : 1);
    ssize_t n = data == NULL ? -1 : pread(fd, data, size, (off_t)offset);
    if (n < 0) {
        answer_status(id, data == NULL ? ENOMEM : errno);
    } else {
        struct writer writer;
        put_begin(&writer, KIND_FILE_DATA, id);
        put_bytes(&writer, data, (size_t)n);
        answer_host(&writer);
    }
    free(data);
}

void file_write(struct reader *body, uint32_t id)
{
    int fd = file_of(get_u32(body));
    struct bytes data = get_bytes(body);
    if (!get_end(body)) {
        answer_status(id, EPROTO);
        return;
    }
    while (data.size > 0) {
        ssize_t n = write(fd, data.data, data.size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            answer_status(id, errno);
            return;
        }
        data.data += n;
        data.size -= (uint32_t)n;
    }
    answer_status(id, 0);
}

/* `u32 channel, bytes name, u32 set, bytes value`; removing what is not there is success. */
void file_attribute(struct reader *body, uint32_t id)
{
    int fd = file_of(get_u32(body)), error = 0;
    const char *name = get_string(body);
    uint32_t set = get_u32(body);
    struct bytes value = get_bytes(body);
    if (!get_end(body) || value.size > VALUE_MAX)
        error = EPROTO;
    else if (set ? fsetxattr(fd, name, value.data, value.size, 0) : fremovexattr(fd, name))
        error = set || errno != ENODATA ? errno : 0;
    answer_status(id, error);
}

void file_identity(struct reader *body, uint32_t id)
{
    struct stat st;
    int fd = file_of(get_u32(body));
    if (!get_end(body) || fstat(fd, &st)) {
        answer_status(id, EBADF);
        return;
    }
    struct writer writer;
    put_begin(&writer, KIND_FILE_IS, id);
    put_u64(&writer, st.st_dev);
    put_u64(&writer, st.st_ino);
    answer_host(&writer);
}
