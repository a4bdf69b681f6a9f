/* Messages between the host and process 1, and those that are for the relay itself.
 *
 * The host numbers its requests from 1 in each session; for process 1 the session stands in the upper byte, so that what
 * answers a request of an earlier one is known and thrown away. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channels.h"
#include "relay.h"
#include "relay_state.h"

enum { MAX_ATTACHED = WIRE_MAX_FDS, ID_BITS = 24, ID_MASK = (1 << ID_BITS) - 1 };

/* What the channels of a message look like in it: `u32 n, n * (u32 number, u32 type)`. */
struct attached {
    uint32_t n;
    uint32_t pairs[MAX_ATTACHED][2];
};

static struct message from_one;
static uint32_t session;
static bool identified;

void messages_reset(void)
{
    session++;
}

static uint32_t numbered(uint32_t id)
{
    return (session << ID_BITS) | (id & ID_MASK);
}

static bool current(uint32_t id)
{
    return id >> ID_BITS == (session & 0xff);
}

static void send_to_host(const struct attached *attached, uint32_t kind, uint32_t id, const uint8_t *body, size_t size)
{
    uint8_t prefix[sizeof *attached + 2 * sizeof(uint32_t)];
    size_t used = sizeof attached->n + attached->n * sizeof attached->pairs[0];
    memcpy(prefix, attached, used);
    memcpy(prefix + used, &kind, sizeof kind);
    memcpy(prefix + used + sizeof kind, &id, sizeof id);
    relay_message(prefix, used + sizeof kind + sizeof id, body, size);
}

void answer_host(struct writer *writer)
{
    static const struct attached none;
    if (!writer->bad) {
        struct reader built = {.at = writer->data, .end = writer->data + writer->used};
        uint32_t kind = get_u32(&built), id = get_u32(&built);
        send_to_host(&none, kind, id & ID_MASK, built.at, (size_t)(built.end - built.at));
    }
    put_discard(writer);
}

/* The descriptors of an answer become channels. */
static void adopt(struct attached *attached)
{
    attached->n = 0;
    for (uint32_t i = 0; i < from_one.n_fds && i < MAX_ATTACHED; i++) {
        enum channel_type type;
        int fd = message_take_fd(&from_one, i);
        attached->pairs[i][0] = channel_open(fd, &type);
        attached->pairs[i][1] = type;
        attached->n++;
    }
}

static void pass_on(const struct attached *attached, uint32_t id)
{
    const struct reader *body = &from_one.body;
    send_to_host(attached, from_one.kind, id & ID_MASK, body->at, (size_t)(body->end - body->at));
}

/* Also when the host that asked for it has gone: it runs, and the next one may want to know. */
static void started(void)
{
    struct attached attached;
    uint32_t numbers[MAX_ATTACHED];
    struct reader body = from_one.body;
    uint32_t pid = get_u32(&body);
    adopt(&attached);
    for (uint32_t i = 0; i < attached.n; i++)
        numbers[i] = attached.pairs[i][0];
    process_started(pid, current(from_one.id) ? from_one.id : 0, numbers, attached.n);
    if (current(from_one.id))
        pass_on(&attached, from_one.id);
    for (uint32_t i = 0; i < attached.n && !current(from_one.id); i++)
        channel_detach(channel_of(numbers[i]));
}

static void ended(void)
{
    static const struct attached none;
    struct reader body = from_one.body;
    uint32_t pid = get_u32(&body);
    int32_t status = get_i32(&body);
    uint32_t id = process_ended(pid, status);
    if (id != 0)
        pass_on(&none, id);
}

bool messages_from_process_one(void)
{
    struct attached attached;
    int received = message_receive(relay_control(), &from_one);
    if (received == 0 || (received < 0 && errno != EAGAIN && errno != EBADMSG))
        return false;
    if (received < 0)
        return true;
    if (from_one.kind == KIND_READY) {
        relay_ready();
    } else if (from_one.kind == KIND_SPAWNED) {
        started();
    } else if (from_one.kind == KIND_EXITED) {
        ended();
    } else if (current(from_one.id)) {
        adopt(&attached);
        pass_on(&attached, from_one.id);
    }
    message_release(&from_one);
    return true;
}

static void confirm(struct reader *body, uint32_t id)
{
    const struct machine *machine = relay_machine();
    struct reader copy = *body;
    uint64_t generation = get_u64(&copy);
    int error = machine != NULL ? machine->identify(body) : 0;
    if (error) {
        answer_status(id, error);
        return;
    }
    identified = true;
    struct writer writer;
    put_begin(&writer, KIND_CONFIRMED, id);
    put_u64(&writer, generation);
    answer_host(&writer);
}

static void answer_survivors(uint32_t id)
{
    struct writer writer;
    put_begin(&writer, KIND_SURVIVORS, id);
    put_survivors(&writer);
    put_channels(&writer);
    answer_host(&writer);
}

static int resize(struct reader *body)
{
    struct channel *c = channel_of(get_u32(body));
    struct winsize size = {0};
    size.ws_col = (unsigned short)get_u32(body);
    size.ws_row = (unsigned short)get_u32(body);
    if (!get_end(body))
        return EPROTO;
    if (c == NULL || c->type != CHANNEL_TERMINAL)
        return EBADF;
    return ioctl(c->fd, TIOCSWINSZ, &size) ? errno : 0;
}

/* The answer comes behind the records of all that has happened before it was asked for. */
static int send_events(struct reader *body)
{
    struct channel *c = channel_of(get_u32(body));
    if (!get_end(body))
        return EPROTO;
    if (c == NULL || c->type != CHANNEL_EVENTS)
        return EBADF;
    channel_catch_up(c);
    return 0;
}

static int follow(struct reader *body, uint32_t id)
{
    uint32_t pid = get_u32(body);
    return get_end(body) ? process_follow(pid, numbered(id)) : EPROTO;
}

static int note(struct reader *body)
{
    uint32_t pid = get_u32(body);
    struct bytes text = get_bytes(body);
    return get_end(body) ? process_note(pid, text) : EPROTO;
}

/* Requests for the relay itself. False: it is for process 1. */
static bool answer_myself(uint32_t kind, uint32_t id, struct reader *body)
{
    const struct machine *machine = relay_machine();
    int error;
    switch (kind) {
    case KIND_IDENTITY:
        return confirm(body, id), true;
    case KIND_CLOCK:
        return answer_status(id, machine != NULL ? machine->set_clock(body) : 0), true;
    case KIND_FREEZE:
        return answer_status(id, machine != NULL ? machine->freeze(body) : 0), true;
    case KIND_LIVE:
        return answer_survivors(id), true;
    case KIND_FOLLOW: /* answered by the end of the process */
        error = follow(body, id);
        if (error)
            answer_status(id, error);
        return true;
    case KIND_NOTE:
        return answer_status(id, note(body)), true;
    case KIND_RESIZE:
        return answer_status(id, resize(body)), true;
    case KIND_FILE_READ:
        return file_read(body, id), true;
    case KIND_FILE_WRITE:
        return file_write(body, id), true;
    case KIND_FILE_ATTRIBUTE:
        return file_attribute(body, id), true;
    case KIND_FILE_IDENTITY:
        return file_identity(body, id), true;
    case KIND_EVENTS:
        return answer_status(id, send_events(body)), true;
    }
    return false;
}

/* True when process 1 has it, or will never take it. */
static bool ask_process_one(uint8_t *data, size_t size, uint32_t id, const int *fds, size_t n_fds)
{
    uint32_t own = numbered(id);
    memcpy(data + sizeof own, &own, sizeof own);
    if (message_send(relay_control(), data, size, fds, n_fds) == 0)
        return true;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return false;
    answer_status(id, errno);
    return true;
}

bool messages_from_host(uint8_t *data, size_t size)
{
    struct reader all = {.at = data, .end = data + size};
    int fds[MAX_ATTACHED];
    size_t n_fds = 0;
    uint32_t n = get_count(&all, 2 * sizeof(uint32_t));
    for (uint32_t i = 0; i < n; i++) {
        struct channel *c = channel_of(get_u32(&all));
        get_u32(&all);
        if (c != NULL && c->fd >= 0 && n_fds < MAX_ATTACHED - 1)
            fds[n_fds++] = c->fd;
    }
    uint8_t *message = all.at;
    uint32_t kind = get_u32(&all), id = get_u32(&all);
    if (all.bad)
        return true;
    bool early = !identified && kind != KIND_PING && kind != KIND_IDENTITY && kind != KIND_LIVE;
    if (early || n_fds != n) {
        answer_status(id, early ? EAGAIN : EBADF);
        return true;
    }
    return answer_myself(kind, id, &all) || ask_process_one(message, (size_t)(all.end - message), id, fds, n_fds);
}
