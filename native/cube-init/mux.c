#include "mux.h"

#include <string.h>
#include <sys/mman.h>

static const uint8_t mark[MARK_SIZE] = {0x9d, 0xf3, 'c', 'u', 'b', 'e', '.', 's', 'e', 's', 's', 'i', 'o', 'n', 0xc1, 0x8e};

enum { OUTBOX_STEP = 65536 };

uint8_t *deframer_room(struct deframer *d, size_t *room)
{
    if (d->start == d->end)
        d->start = d->end = 0;
    if (sizeof d->data - d->end < sizeof d->data / 2) {
        memmove(d->data, d->data + d->start, d->end - d->start);
        d->end -= d->start;
        d->start = 0;
    }
    *room = sizeof d->data - d->end;
    return d->data + d->end;
}

/* Go on behind the last mark that is completed by what was added. */
static void find_mark(struct deframer *d, size_t added)
{
    size_t old = d->end - d->start - added, behind = old < MARK_SIZE - 1 ? old : MARK_SIZE - 1;
    const uint8_t *at = d->data + d->end - added - behind;
    size_t left = added + behind;
    const uint8_t *found;
    while ((found = memmem(at, left, mark, MARK_SIZE)) != NULL) {
        left -= (size_t)(found - at) + MARK_SIZE;
        at = found + MARK_SIZE;
        d->start = (size_t)(at - d->data);
        d->in_session = true;
    }
}

/* Outside of a session only the beginning of a mark is worth keeping. */
static void skip(struct deframer *d)
{
    size_t keep = d->end - d->start < MARK_SIZE - 1 ? d->end - d->start : MARK_SIZE - 1;
    d->start = d->end - keep;
}

void deframer_added(struct deframer *d, size_t size)
{
    d->end += size;
    find_mark(d, size);
    if (!d->in_session)
        skip(d);
}

static void read_header(const uint8_t *at, struct frame *frame)
{
    *frame = (struct frame){.type = at[0], .flags = at[1], .payload = at + FRAME_HEADER};
    memcpy(&frame->channel, at + 4, sizeof frame->channel);
    memcpy(&frame->size, at + 8, sizeof frame->size);
}

int deframer_next(struct deframer *d, struct frame *frame)
{
    size_t there = d->end - d->start;
    const uint8_t *at = d->data + d->start;
    if (!d->in_session || there < FRAME_HEADER)
        return 0;
    read_header(at, frame);
    bool valid = frame->type >= FRAME_HELLO && frame->type <= FRAME_ATTACH && frame->size <= FRAME_MAX &&
                 at[2] == 0 && at[3] == 0;
    if (valid && there < FRAME_HEADER + frame->size + 1)
        return 0;
    if (!valid || frame->payload[frame->size] != FRAME_TRAILER) {
        d->in_session = false;
        skip(d);
        return 0;
    }
    d->start += FRAME_HEADER + frame->size + 1;
    return 1;
}

size_t outbox_size(const struct outbox *o)
{
    return o->end - o->start;
}

void outbox_clear(struct outbox *o)
{
    if (o->data != NULL)
        munmap(o->data, o->capacity);
    *o = (struct outbox){0};
}

void outbox_sent(struct outbox *o, size_t size)
{
    o->start += size;
    if (o->start < o->end)
        return;
    if (o->capacity > OUTBOX_STEP)
        outbox_clear(o);
    o->start = o->end = 0;
}

static bool grow(struct outbox *o, size_t wanted)
{
    size_t capacity = (wanted + OUTBOX_STEP - 1) / OUTBOX_STEP * OUTBOX_STEP;
    if (capacity < 2 * o->capacity)
        capacity = 2 * o->capacity;
    void *data = o->data == NULL
                     ? mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                     : mremap(o->data, o->capacity, capacity, MREMAP_MAYMOVE);
    if (data == MAP_FAILED)
        return false;
    o->data = data;
    o->capacity = capacity;
    return true;
}

static bool reserve(struct outbox *o, size_t size)
{
    if (o->capacity - o->end >= size)
        return true;
    if (o->start > 0) {
        memmove(o->data, o->data + o->start, o->end - o->start);
        o->end -= o->start;
        o->start = 0;
    }
    return o->capacity - o->end >= size || grow(o, o->end + size);
}

static void add(struct outbox *o, const void *data, size_t size)
{
    if (size != 0)
        memcpy(o->data + o->end, data, size);
    o->end += size;
}

static void add_header(struct outbox *o, const struct frame *frame)
{
    const uint8_t head[4] = {frame->type, frame->flags, 0, 0};
    add(o, head, sizeof head);
    add(o, &frame->channel, sizeof frame->channel);
    add(o, &frame->size, sizeof frame->size);
}

static void add_trailer(struct outbox *o)
{
    o->data[o->end++] = FRAME_TRAILER;
}

bool outbox_mark(struct outbox *o)
{
    if (!reserve(o, MARK_SIZE))
        return false;
    add(o, mark, MARK_SIZE);
    return true;
}

bool outbox_frame(struct outbox *o, struct frame frame)
{
    if (!reserve(o, FRAME_HEADER + frame.size + 1))
        return false;
    add_header(o, &frame);
    add(o, frame.payload, frame.size);
    add_trailer(o);
    return true;
}

/* The first frame has the prefix and as much of the rest as fits. */
bool outbox_message(struct outbox *o, const uint8_t *prefix, size_t prefix_size, const uint8_t *data, size_t size)
{
    size_t frames = (prefix_size + size) / FRAME_MAX + 1;
    if (prefix_size > FRAME_MAX || !reserve(o, prefix_size + size + frames * (FRAME_HEADER + 1)))
        return false;
    do {
        size_t part = FRAME_MAX - prefix_size < size ? FRAME_MAX - prefix_size : size;
        struct frame frame = {.type = FRAME_MESSAGE, .size = (uint32_t)(prefix_size + part)};
        frame.flags = part < size ? FLAG_MORE : 0;
        add_header(o, &frame);
        add(o, prefix, prefix_size);
        add(o, data, part);
        add_trailer(o);
        prefix_size = 0;
        data += part;
        size -= part;
    } while (size > 0);
    return true;
}
