/* Frames on a serial port: many streams and messages over one stream of bytes (docs/microvm.md, "The channel").
 * Nothing here reads or writes anything. */
#ifndef CUBE_MUX_H
#define CUBE_MUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_HEADER = 12,
    FRAME_MAX = 32768,    /* longest payload */
    FRAME_TRAILER = 0x0a, /* follows every payload; does not occur in the mark */
    MARK_SIZE = 16,
    NONCE_SIZE = 16,
    MUX_VERSION = 1,
    WINDOW = 65536, /* bytes of a channel that may be on their way and not confirmed, in each direction */
};

enum frame_type {
    FRAME_HELLO = 1, /* follows a mark */
    FRAME_MESSAGE,
    FRAME_DATA,
    FRAME_CREDIT,
    FRAME_END,
    FRAME_CLOSE,
    FRAME_ATTACH,
};
enum { FLAG_MORE = 1 }; /* of a message: the next one goes on */

struct frame {
    uint8_t type, flags;
    uint32_t channel, size;
    const uint8_t *payload;
};

/* Takes a stream of bytes apart. What comes before the first mark is thrown away, and so is a frame that a mark
 * interrupts: whoever sends splits frames in whose payload a mark would occur. */
struct deframer {
    bool in_session; /* a mark has come, and nothing but frames since */
    size_t start, end;
    uint8_t data[2 * (MARK_SIZE + FRAME_HEADER + FRAME_MAX + 1)];
};

/* Where the next bytes go, and how many fit: at least one. */
uint8_t *deframer_room(struct deframer *d, size_t *room);

/* That many bytes have been put there. */
void deframer_added(struct deframer *d, size_t size);

/* 1: the next frame, whose payload is valid until more is added; 0: it is not complete. Frames that break the rules end
 * the session: nothing comes until the next mark. */
int deframer_next(struct deframer *d, struct frame *frame);

/* Bytes that wait to be sent. Memory is asked of the kernel and given back to it when all are gone. */
struct outbox {
    uint8_t *data;
    size_t start, end, capacity;
};

size_t outbox_size(const struct outbox *o);
void outbox_sent(struct outbox *o, size_t size);
void outbox_clear(struct outbox *o);

/* Append; false without memory. */
bool outbox_mark(struct outbox *o);
bool outbox_frame(struct outbox *o, struct frame frame);

/* A message, in as many frames as it takes. `prefix` comes before `data`. */
bool outbox_message(struct outbox *o, const uint8_t *prefix, size_t prefix_size, const uint8_t *data, size_t size);

#endif
