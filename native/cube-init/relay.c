#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channels.h"
#include "relay_state.h"

enum {
    FROM_PORT,
    FROM_LISTENER,
    FROM_PROCESS_ONE,
    FROM_SOURCES,
    EVENTS_AT_ONCE = 16,
    CONGESTED = 131072,    /* bytes for the host beyond which nothing more is taken from the sandbox … */
    OVERFULL = 1048576,    /* … and beyond which nothing is taken from the host, which has to read first */
    MESSAGE_MAX = WIRE_BODY_MAX + 4096,
};

static const struct relay_config *config;
static int port = -1, epoll_fd, sources;
static bool in_session; /* a host listens */
static bool sources_observed, one_gone;
static struct deframer in;
static struct outbox out;

/* The message that is being put together, and whether it waits for process 1 to take it. */
static uint8_t *message;
static size_t message_size, message_capacity;
static bool message_waits;

int relay_control(void)
{
    return config->control;
}

const struct machine *relay_machine(void)
{
    return config->machine;
}

void relay_message(const uint8_t *prefix, size_t prefix_size, const uint8_t *data, size_t size)
{
    if (in_session)
        outbox_message(&out, prefix, prefix_size, data, size);
}

void relay_frame(enum frame_type type, uint32_t channel, const void *payload, size_t size)
{
    const struct frame frame = {.type = (uint8_t)type, .channel = channel, .size = (uint32_t)size, .payload = payload};
    if (in_session)
        outbox_frame(&out, frame);
}

static int observe(int epoll, int fd, uint32_t events, uint32_t what)
{
    struct epoll_event event = {.events = events, .data.u32 = what};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void forget_message(void)
{
    if (message != NULL)
        munmap(message, message_capacity);
    message = NULL;
    message_size = message_capacity = 0;
    message_waits = false;
}

static bool extend_message(const struct frame *frame)
{
    size_t wanted = message_size + frame->size;
    if (wanted > MESSAGE_MAX)
        return false;
    if (wanted > message_capacity) {
        size_t capacity = wanted * 2 < 65536 ? 65536 : wanted * 2;
        void *moved = message == NULL
                          ? mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                          : mremap(message, message_capacity, capacity, MREMAP_MAYMOVE);
        if (moved == MAP_FAILED)
            return false;
        message = moved;
        message_capacity = capacity;
    }
    memcpy(message + message_size, frame->payload, frame->size);
    message_size = wanted;
    return true;
}

/* Process 1 takes messages again when it has got rid of its answers. */
static void deliver_message(void)
{
    if (messages_from_host(message, message_size)) {
        forget_message();
        return;
    }
    if (!message_waits)
        observe(epoll_fd, config->control, EPOLLOUT | EPOLLET, FROM_PROCESS_ONE);
    message_waits = true;
}

static void say_hello(const uint8_t nonce[NONCE_SIZE])
{
    uint8_t payload[sizeof(uint32_t) + NONCE_SIZE];
    const uint32_t version = MUX_VERSION;
    memcpy(payload, &version, sizeof version);
    memcpy(payload + sizeof version, nonce, NONCE_SIZE);
    outbox_mark(&out);
    outbox_frame(&out, (struct frame){.type = FRAME_HELLO, .payload = payload, .size = sizeof payload});
}

/* Whatever was under way with the host is void. */
static void end_session(void)
{
    in_session = false;
    outbox_clear(&out);
    forget_message();
    channels_detach();
    processes_unfollowed();
    messages_reset();
}

static void begin_session(const struct frame *frame)
{
    end_session();
    if (frame->size != sizeof(uint32_t) + NONCE_SIZE)
        return;
    say_hello(frame->payload + sizeof(uint32_t));
    in_session = true;
}

static uint64_t offset_in(const struct frame *frame)
{
    uint64_t offset = UINT64_MAX;
    if (frame->size >= sizeof offset)
        memcpy(&offset, frame->payload, sizeof offset);
    return offset;
}

static void refuse_channel(uint32_t number)
{
    relay_frame(FRAME_CLOSE, number, NULL, 0);
}

/* Frames about channels that are gone may have been on their way. */
static void about_channel(const struct frame *frame)
{
    struct channel *c = channel_of(frame->channel);
    if (c == NULL) {
        if (frame->type == FRAME_ATTACH)
            refuse_channel(frame->channel);
        return;
    }
    switch (frame->type) {
    case FRAME_DATA:
        if (!channel_feed(c, frame->payload, frame->size)) {
            refuse_channel(frame->channel);
            channel_close(c);
        }
        break;
    case FRAME_CREDIT:
        channel_confirm(c, offset_in(frame));
        break;
    case FRAME_END:
        channel_end(c);
        break;
    case FRAME_CLOSE:
        channel_close(c);
        break;
    case FRAME_ATTACH:
        if (!channel_attach(c, offset_in(frame))) {
            refuse_channel(frame->channel);
            channel_close(c);
        }
        break;
    }
}

static void take(const struct frame *frame)
{
    if (frame->type == FRAME_HELLO) {
        begin_session(frame);
        return;
    }
    if (frame->type != FRAME_MESSAGE) {
        about_channel(frame);
        return;
    }
    if (!extend_message(frame)) {
        forget_message();
        in.in_session = false;
    } else if ((frame->flags & FLAG_MORE) == 0) {
        deliver_message();
    }
}

static bool can_take(void)
{
    return !message_waits && outbox_size(&out) < OVERFULL;
}

static void take_frames(void)
{
    struct frame frame;
    while (can_take() && deframer_next(&in, &frame))
        take(&frame);
}

/* The port tells of edges only, for it is hung up as long as no host is there. */
static void read_port(void)
{
    take_frames();
    while (can_take()) {
        size_t room;
        uint8_t *at = deframer_room(&in, &room);
        ssize_t n = read(port, at, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        deframer_added(&in, (size_t)n);
        take_frames();
    }
}

static void write_port(void)
{
    while (port >= 0 && outbox_size(&out) > 0) {
        ssize_t n = write(port, out.data + out.start, outbox_size(&out));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        outbox_sent(&out, (size_t)n);
    }
}

/* In tests a socket stands for the port; its end makes room for the next. */
static void accept_port(void)
{
    int next = accept4(config->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (next < 0)
        return;
    close(port);
    port = next;
    observe(epoll_fd, port, EPOLLIN | EPOLLOUT | EPOLLET, FROM_PORT);
}

/* A host that is there already, and whose first words were lost, learns that it can begin. */
void relay_ready(void)
{
    static const uint8_t nobody[NONCE_SIZE];
    if (port >= 0 && !in_session)
        say_hello(nobody);
}

static void watch_sources(void)
{
    bool wanted = outbox_size(&out) < CONGESTED;
    if (wanted == sources_observed)
        return;
    if (wanted)
        observe(epoll_fd, sources, EPOLLIN, FROM_SOURCES);
    else
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, sources, NULL);
    sources_observed = wanted;
}

enum { SOURCE_PROCESS_ONE = ~0u };

static void read_sources(void)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int n = epoll_wait(sources, events, EVENTS_AT_ONCE, 0);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 != SOURCE_PROCESS_ONE)
            channel_ready(events[i].data.u32, events[i].events);
        else if (!messages_from_process_one())
            one_gone = true;
    }
}

static void retry_message(void)
{
    if (!message_waits)
        return;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, config->control, NULL);
    message_waits = false;
    deliver_message();
}

static void dispatch(uint32_t what, uint32_t events)
{
    switch (what) {
    case FROM_PORT:
        if (events & EPOLLHUP)
            end_session();
        read_port();
        break;
    case FROM_LISTENER:
        accept_port();
        break;
    case FROM_PROCESS_ONE:
        retry_message();
        read_port();
        break;
    case FROM_SOURCES:
        read_sources();
        break;
    }
}

static int prepare(void)
{
    signal(SIGPIPE, SIG_IGN); /* a host, or a reader of a pipe, that has gone shows in what write() returns */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    sources = epoll_create1(EPOLL_CLOEXEC);
    port = config->port;
    channels_begin(sources);
    if (epoll_fd < 0 || sources < 0 || fcntl(config->control, F_SETFL, O_NONBLOCK) ||
        observe(sources, config->control, EPOLLIN, SOURCE_PROCESS_ONE))
        return -1;
    if (config->listener >= 0)
        return observe(epoll_fd, config->listener, EPOLLIN, FROM_LISTENER);
    return observe(epoll_fd, port, EPOLLIN | EPOLLOUT | EPOLLET, FROM_PORT);
}

int relay(const struct relay_config *given)
{
    config = given;
    if (prepare())
        return 1;
    while (!one_gone) {
        struct epoll_event events[EVENTS_AT_ONCE];
        watch_sources();
        int n = epoll_wait(epoll_fd, events, EVENTS_AT_ONCE, -1);
        for (int i = 0; i < n; i++)
            dispatch(events[i].data.u32, events[i].events);
        size_t before = outbox_size(&out);
        write_port();
        if (before >= OVERFULL && outbox_size(&out) < OVERFULL)
            read_port();
    }
    return 0;
}
