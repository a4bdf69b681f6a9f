/* Messages of docs/cube-init.md: little endian, one datagram of a SOCK_SEQPACKET socket each. */
#ifndef CUBE_WIRE_H
#define CUBE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little endian and read in place"
#endif

enum {
    WIRE_HEADER = 8,
    WIRE_INLINE_MAX = 65536,    /* longest datagram; a longer message travels in a memory file */
    WIRE_BODY_MAX = 16 << 20,   /* longest body at all */
    WIRE_MAX_FDS = 32,          /* most descriptors of one message, that of a memory file included */
};
#define WIRE_BIG 0x80000000u

enum wire_kind {
    /* launch socket */
    KIND_USERNS = 1,
    KIND_LAUNCH = 2,
    KIND_ID_MAP = 3,
    KIND_NAMESPACE = 0x101,
    KIND_LAUNCHED = 0x102,
    /* control socket, requests */
    KIND_PING = 16,
    KIND_SPAWN = 17,
    KIND_SIGNAL = 18,
    KIND_OPEN = 19,
    KIND_STAT = 20,
    KIND_LIST = 21,
    KIND_MAKE_DIR = 22,
    KIND_MOVE = 23,
    KIND_REMOVE = 24,
    KIND_WATCH = 25,
    KIND_USER = 26,
    /* through a serial port, answered by the relay (relay.h) */
    KIND_IDENTITY = 48,
    KIND_CLOCK = 49,
    KIND_FREEZE = 50,
    KIND_LIVE = 51,
    KIND_FOLLOW = 52,
    KIND_NOTE = 53,
    KIND_RESIZE = 54,
    KIND_FILE_READ = 55,
    KIND_FILE_WRITE = 56,
    KIND_FILE_ATTRIBUTE = 57,
    KIND_FILE_IDENTITY = 58,
    KIND_EVENTS = 59,
    /* control socket, answers */
    KIND_READY = 0x110,
    KIND_PARKED = 0x111,
    KIND_OK = 0x120,
    KIND_SPAWNED = 0x121,
    KIND_EXITED = 0x122,
    KIND_ENTRY = 0x123,
    KIND_ENTRIES = 0x124,
    KIND_WATCHES = 0x125,
    KIND_USER_INFO = 0x126,
    KIND_CONFIRMED = 0x130,
    KIND_SURVIVORS = 0x131,
    KIND_FILE_DATA = 0x132,
    KIND_FILE_IS = 0x133,
    /* both */
    KIND_ERROR = 0x1ff,
};

/* Reads a body in place. The first thing that does not fit sets `bad`; from then on everything reads as zero or empty,
 * so a whole message can be read first and judged once with get_end(). */
struct reader {
    uint8_t *at;
    uint8_t *end;
    bool bad;
};

struct bytes {
    const uint8_t *data;
    uint32_t size;
};

uint16_t get_u16(struct reader *reader);
uint32_t get_u32(struct reader *reader);
int32_t get_i32(struct reader *reader);
uint64_t get_u64(struct reader *reader);
int64_t get_i64(struct reader *reader);

/* `bytes`, as they lie in the message. */
struct bytes get_bytes(struct reader *reader);

/* `bytes` as a C string; a zero byte inside is bad. The string is moved over its own length prefix to make room for the
 * terminator, so a field can be read this way once only. Never NULL. */
char *get_string(struct reader *reader);

/* Length of a list whose items take at least `item_size` bytes each; more items than can be there is bad. */
uint32_t get_count(struct reader *reader, size_t item_size);

/* True when everything was well formed and nothing is left. */
bool get_end(const struct reader *reader);

/* A received message. 64 KiB in size: make it static. What it holds is valid until message_release(). */
struct message {
    uint32_t kind;
    uint32_t id;
    struct reader body;
    int fds[WIRE_MAX_FDS]; /* close-on-exec; -1 once taken */
    size_t n_fds;
    void *mapping; /* of the memory file of a long message */
    size_t mapping_size;
    uint8_t storage[WIRE_INLINE_MAX];
};

/* Receive one message. 1: received, to be released; 0: the peer has closed; -1: errno says why, EBADMSG for a message
 * that breaks the rules: its id is there if it came with one, to answer, and releasing it is allowed but not needed. */
int message_receive(int socket, struct message *message);

/* Take descriptor `index` out of the message; the caller closes it. -1 when there is none. */
int message_take_fd(struct message *message, uint32_t index);

/* Close what was not taken and unmap a long body. */
void message_release(struct message *message);

/* Send a whole message as it lies in memory: kind, id, body. The descriptors stay open here. 0, or -1 with errno. */
int message_send(int socket, const uint8_t *data, size_t size, const int *fds, size_t n_fds);

/* Builds a message. Running out of memory or over WIRE_BODY_MAX sets `bad`, and put_send() reports it. */
struct writer {
    uint8_t *data;
    size_t used;
    size_t capacity;
    bool bad;
};

void put_begin(struct writer *writer, uint32_t kind, uint32_t id);
void put_u16(struct writer *writer, uint16_t value);
void put_u32(struct writer *writer, uint32_t value);
void put_i32(struct writer *writer, int32_t value);
void put_u64(struct writer *writer, uint64_t value);
void put_i64(struct writer *writer, int64_t value);
void put_bytes(struct writer *writer, const void *data, size_t size);
void put_string(struct writer *writer, const char *string);

/* Put a u32 in the place of one that was written at offset `at` (writer->used before it was put). */
void put_u32_at(struct writer *writer, size_t at, uint32_t value);

/* Free what was built, without sending it. */
void put_discard(struct writer *writer);

/* Send and free. The descriptors stay open here. 0, or -1 with errno; EMSGSIZE when the message was too long. */
int put_send(struct writer *writer, int socket, const int *fds, size_t n_fds);

/* Send an ERROR. `detail` may be NULL. */
int send_error(int socket, uint32_t id, int error, uint32_t stage, const char *detail);

#endif
