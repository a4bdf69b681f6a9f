/* The relay of a microVM: between the serial port to the host and the control socket of process 1 of the sandbox.
 *
 * Descriptors cannot leave the guest. The relay keeps them and gives each a number, a channel, on which the host writes
 * and reads. It outlives the host's end: a host that connects again, or to a copy of this guest, finds channels and
 * processes as they are, and follows or drops them. */
#ifndef CUBE_RELAY_H
#define CUBE_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "mux.h"
#include "wire.h"

/* What the host can do with a machine and not with an ordinary process; each returns 0 or an errno. */
struct machine {
    int (*identify)(struct reader *body);
    int (*set_clock)(struct reader *body);
    int (*freeze)(struct reader *body);
};

struct relay_config {
    int port;                       /* the serial port, or -1 and a listening socket in its place, in tests */
    int listener;
    int control;                    /* connected to process 1 */
    const struct machine *machine;  /* NULL: an ordinary process, in tests */
};

/* Relay until process 1 closes its end. Returns an exit status. */
int relay(const struct relay_config *config);

/* relay_messages.c: a whole message of the host, `u32 n, n * (u32 channel, u32 type), u32 kind, u32 id, body`; false when
 * process 1 cannot take it now. */
bool messages_from_host(uint8_t *data, size_t size);

/* A message of process 1 waits. False when that has closed. */
bool messages_from_process_one(void);

/* A new session: answers to requests of an earlier one are thrown away. */
void messages_reset(void);

/* Answer a request of the host, and free what was built. */
void answer_host(struct writer *writer);

/* relay_files.c: requests about open files. Each answers by itself. */
void file_read(struct reader *body, uint32_t id);
void file_write(struct reader *body, uint32_t id);
void file_attribute(struct reader *body, uint32_t id);
void file_identity(struct reader *body, uint32_t id);
void answer_status(uint32_t id, int error);

/* survivors.c: processes that the host has started, by what is known of them. */
void process_started(uint32_t pid, uint32_t id, const uint32_t *channels, size_t n);

/* It has ended; the id under which the host waits for that, 0 when nobody does now. */
uint32_t process_ended(uint32_t pid, int32_t status);

/* A new session: nobody waits. */
void processes_unfollowed(void);

/* The end of this process is to be told under this id; at once when it has ended. ESRCH when it is unknown. */
int process_follow(uint32_t pid, uint32_t id);
int process_note(uint32_t pid, struct bytes note);
void put_survivors(struct writer *writer);

/* relay.c, for the others: to the host, or nowhere when none is there. */
void relay_frame(enum frame_type type, uint32_t channel, const void *payload, size_t size);
void relay_message(const uint8_t *prefix, size_t prefix_size, const uint8_t *data, size_t size);

#endif
