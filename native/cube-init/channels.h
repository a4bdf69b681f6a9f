/* Descriptors of the sandbox by number, with what is on its way to and from them. */
#ifndef CUBE_CHANNELS_H
#define CUBE_CHANNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

enum channel_type { CHANNEL_NONE, CHANNEL_SINK, CHANNEL_SOURCE, CHANNEL_TERMINAL, CHANNEL_FILE, CHANNEL_EVENTS };

struct channel {
    int fd; /* -1: its end was reached, what is held has still to be taken by the host */
    enum channel_type type;
    uint32_t number;
    uint32_t observed; /* events that epoll tells of; OBSERVED_NOT for none at all */
    bool attached;     /* the host of this session follows it */
    bool ended;        /* nothing more will be read */
    bool told;         /* and the host of this session knows */
    bool closing;      /* nothing more will be written */
    uint64_t base;     /* offset of the first byte that the host has not confirmed */
    size_t held, sent; /* bytes from there on that are kept, and of those, that were sent in this session */
    uint8_t *out;
    uint64_t received; /* bytes that were written */
    size_t waiting;    /* and that could not be written yet */
    uint8_t *in;
};

/* `sources` is the epoll instance that tells of channels. */
void channels_begin(int sources);

/* Give a descriptor, which is taken over, a number. 0, and it is closed, when there are too many. */
uint32_t channel_open(int fd, enum channel_type *type);

/* NULL when it does not exist (any more). */
struct channel *channel_of(uint32_t number);

/* Close its descriptor and forget it. */
void channel_close(struct channel *c);

/* The host does not follow it (any more). NULL is allowed. */
void channel_detach(struct channel *c);

/* A new session: the host follows none of them. */
void channels_detach(void);

/* The host follows it and has received this many bytes so far; false when they cannot be had from there on any more. */
bool channel_attach(struct channel *c, uint64_t received);

/* From the host: so much has arrived there; data to write; the end of it. */
void channel_confirm(struct channel *c, uint64_t received);
bool channel_feed(struct channel *c, const uint8_t *data, size_t size);
void channel_end(struct channel *c);

/* epoll tells of the channel in this slot. */
void channel_ready(uint32_t slot, uint32_t events);

/* Send what can be read now, as far as the window goes. */
void channel_catch_up(struct channel *c);

/* Append all of them to an answer. */
void put_channels(struct writer *writer);

#endif
