#include "channels.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay.h"

enum {
    MAX_CHANNELS = 4096,
    OBSERVED_NOT = ~0u,
    RECORD_MAX = sizeof(struct inotify_event) + NAME_MAX + 1, /* where less fits, inotify refuses to be read */
};

/* A number is a slot and how often it was used before: none means two things in the life of a machine. */
static struct channel channels[MAX_CHANNELS];
static uint32_t uses[MAX_CHANNELS];
static uint32_t first_free, used; /* below the one all are taken, from the other on all are free */
static int sources = -1;

void channels_begin(int epoll)
{
    sources = epoll;
}

static uint32_t slot_of(const struct channel *c)
{
    return (uint32_t)(c - channels);
}

struct channel *channel_of(uint32_t number)
{
    struct channel *c = &channels[number % MAX_CHANNELS];
    return number != 0 && c->type != CHANNEL_NONE && c->number == number ? c : NULL;
}

static enum channel_type type_of(int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        return CHANNEL_NONE;
    if (S_ISFIFO(st.st_mode))
        return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY ? CHANNEL_SINK : CHANNEL_SOURCE;
    return S_ISCHR(st.st_mode) ? CHANNEL_TERMINAL : S_ISREG(st.st_mode) ? CHANNEL_FILE : CHANNEL_EVENTS;
}

static bool writes(const struct channel *c)
{
    return c->type == CHANNEL_SINK || c->type == CHANNEL_TERMINAL;
}

static bool reads(const struct channel *c)
{
    return c->type == CHANNEL_SOURCE || c->type == CHANNEL_TERMINAL || c->type == CHANNEL_EVENTS;
}

static bool has_room(const struct channel *c)
{
    return WINDOW - c->held >= (c->type == CHANNEL_EVENTS ? RECORD_MAX : 1);
}

/* What epoll should tell of. A reader that has gone shows on a sink that nothing else is wanted of, too; an end of file
 * would be told over and over, so a source that cannot be read now is not observed at all. */
static uint32_t wanted(const struct channel *c)
{
    uint32_t events = 0;
    if (c->fd < 0 || c->type == CHANNEL_FILE)
        return OBSERVED_NOT;
    if (reads(c) && c->attached && !c->ended && has_room(c))
        events |= EPOLLIN;
    if (c->waiting)
        events |= EPOLLOUT;
    return events || c->type == CHANNEL_SINK ? events : OBSERVED_NOT;
}

static void observe(struct channel *c)
{
    uint32_t events = wanted(c);
    struct epoll_event event = {.events = events, .data.u32 = slot_of(c)};
    if (events == c->observed)
        return;
    int operation = c->observed == OBSERVED_NOT ? EPOLL_CTL_ADD : events == OBSERVED_NOT ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    epoll_ctl(sources, operation, c->fd, &event);
    c->observed = events;
}

static void drop_descriptor(struct channel *c)
{
    if (c->observed != OBSERVED_NOT)
        epoll_ctl(sources, EPOLL_CTL_DEL, c->fd, NULL);
    c->observed = OBSERVED_NOT;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void release(uint8_t **buffer)
{
    if (*buffer != NULL)
        munmap(*buffer, WINDOW);
    *buffer = NULL;
}

static uint8_t *buffer_of(uint8_t **buffer)
{
    if (*buffer == NULL) {
        void *memory = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *buffer = memory == MAP_FAILED ? NULL : memory;
    }
    return *buffer;
}

void channel_close(struct channel *c)
{
    uint32_t slot = slot_of(c);
    drop_descriptor(c);
    release(&c->out);
    release(&c->in);
    *c = (struct channel){.fd = -1};
    if (slot < first_free)
        first_free = slot;
    while (used > 0 && channels[used - 1].type == CHANNEL_NONE)
        used--;
}

uint32_t channel_open(int fd, enum channel_type *type)
{
    while (first_free < MAX_CHANNELS && channels[first_free].type != CHANNEL_NONE)
        first_free++;
    *type = type_of(fd);
    if (first_free == MAX_CHANNELS || *type == CHANNEL_NONE) {
        close(fd);
        return 0;
    }
    struct channel *c = &channels[first_free];
    uint32_t number = ++uses[first_free] * MAX_CHANNELS + first_free;
    *c = (struct channel){.fd = fd, .type = *type, .number = number, .observed = OBSERVED_NOT, .attached = true};
    if (first_free >= used)
        used = first_free + 1;
    if (*type != CHANNEL_FILE)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    observe(c);
    return number;
}

/* Send what has not been sent in this session, and the end behind it. */
static void flush(struct channel *c)
{
    while (c->attached && c->sent < c->held) {
        size_t part = c->held - c->sent < FRAME_MAX ? c->held - c->sent : FRAME_MAX;
        relay_frame(FRAME_DATA, c->number, c->out + c->sent, part);
        c->sent += part;
    }
    if (c->attached && c->ended && !c->told) {
        relay_frame(FRAME_END, c->number, NULL, 0);
        c->told = true;
    }
}

/* A terminal whose last user has gone answers EIO instead of end of file. */
static void read_some(struct channel *c)
{
    if (buffer_of(&c->out) == NULL)
        return;
    size_t room = WINDOW - c->held;
    ssize_t n = read(c->fd, c->out + c->held, room < FRAME_MAX ? room : FRAME_MAX);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        c->held += (size_t)n;
    } else {
        c->ended = true;
        drop_descriptor(c);
    }
    flush(c);
}

void channel_catch_up(struct channel *c)
{
    size_t before = WINDOW;
    while (c->attached && c->fd >= 0 && c->held != before && has_room(c)) {
        before = c->held;
        read_some(c);
    }
    observe(c);
}

static void tell_written(struct channel *c)
{
    const uint64_t offsets[2] = {c->received, c->received + c->waiting};
    if (c->attached)
        relay_frame(FRAME_CREDIT, c->number, offsets, sizeof offsets);
}

/* Nobody will read what the host writes. */
static void reader_gone(struct channel *c)
{
    if (c->attached)
        relay_frame(FRAME_CLOSE, c->number, NULL, 0);
    channel_close(c);
}

static void write_some(struct channel *c)
{
    ssize_t n = write(c->fd, c->in, c->waiting);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        if (c->type == CHANNEL_SINK)
            reader_gone(c);
        else
            c->waiting = 0;
        return;
    }
    c->waiting -= (size_t)n;
    c->received += (size_t)n;
    memmove(c->in, c->in + n, c->waiting);
    if (c->waiting == 0)
        release(&c->in);
    tell_written(c);
    if (c->closing && c->waiting == 0)
        channel_close(c);
}

void channel_ready(uint32_t slot, uint32_t events)
{
    struct channel *c = &channels[slot];
    if (c->type == CHANNEL_NONE || c->fd < 0)
        return;
    if (c->type == CHANNEL_SINK && (events & EPOLLERR)) {
        reader_gone(c);
        return;
    }
    uint32_t number = c->number;
    if (c->waiting && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
        write_some(c);
    if (c->number == number && c->fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && (c->observed & EPOLLIN))
        read_some(c);
    if (c->number == number)
        observe(c);
}

bool channel_feed(struct channel *c, const uint8_t *data, size_t size)
{
    if (!writes(c) || c->fd < 0 || c->closing || size == 0)
        return true; /* it may have ended while this was on its way */
    if (size > WINDOW - c->waiting || buffer_of(&c->in) == NULL)
        return false;
    memcpy(c->in + c->waiting, data, size);
    c->waiting += size;
    uint32_t number = c->number;
    write_some(c);
    if (c->number == number)
        observe(c);
    return true;
}

void channel_end(struct channel *c)
{
    if (c->type != CHANNEL_SINK)
        return;
    c->closing = true;
    if (c->waiting == 0)
        channel_close(c);
}

void channel_confirm(struct channel *c, uint64_t received)
{
    if (received <= c->base || received > c->base + c->sent)
        return;
    size_t n = (size_t)(received - c->base);
    c->base = received;
    c->held -= n;
    c->sent -= n;
    if (c->held == 0)
        release(&c->out);
    else
        memmove(c->out, c->out + n, c->held);
    observe(c);
}

bool channel_attach(struct channel *c, uint64_t received)
{
    if (received < c->base || received > c->base + c->held)
        return false;
    c->attached = true;
    c->told = false;
    c->sent = (size_t)(received - c->base);
    channel_confirm(c, received);
    if (writes(c))
        tell_written(c);
    flush(c);
    observe(c);
    return true;
}

void channel_detach(struct channel *c)
{
    if (c == NULL)
        return;
    c->attached = false;
    c->sent = 0;
    observe(c);
}

void channels_detach(void)
{
    for (uint32_t i = 0; i < used; i++)
        if (channels[i].type != CHANNEL_NONE)
            channel_detach(&channels[i]);
}

void put_channels(struct writer *writer)
{
    size_t count_at = writer->used;
    uint32_t count = 0;
    put_u32(writer, 0);
    for (uint32_t i = 0; i < used; i++) {
        const struct channel *c = &channels[i];
        if (c->type == CHANNEL_NONE)
            continue;
        put_u32(writer, c->number);
        put_u32(writer, c->type);
        put_u64(writer, c->base);
        put_u64(writer, c->received + c->waiting);
        count++;
    }
    put_u32_at(writer, count_at, count);
}
