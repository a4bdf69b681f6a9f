/* What the parts of process 1's loop share: connections to the host, and children that the host will hear of. */
#ifndef CUBE_LOOP_H
#define CUBE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "children.h"

enum { MAX_CONNECTIONS = 16, MAX_ANSWER = 32 };

/* Where an event of epoll comes from; it stands in the upper half of its data, an index or pid in the lower. */
enum source { FROM_SIGNAL, FROM_LISTENER, FROM_SUDO, FROM_CONNECTION, FROM_TASK };

/* Let epoll tell of these events of a descriptor; 0 or -1. EPOLLHUP always comes. */
int loop_observe(int fd, uint32_t events, enum source source, uint32_t index);

/* Other events from now on. */
void loop_change(int fd, uint32_t events, enum source source, uint32_t index);

/* Stop observing and close. Always in this order: while a child still holds a copy of the descriptor, epoll would go on
 * reporting one that is gone here. */
void loop_close(int fd);

struct connection {
    int fd; /* -1: free */
    bool blocked;
    size_t unsent_size;
    uint8_t unsent[MAX_ANSWER]; /* answer to a PING or SIGNAL that did not fit */
};

/* A short message, built without memory from anywhere. */
struct answer {
    size_t size;
    uint8_t data[MAX_ANSWER];
};

struct answer answer_begin(uint32_t kind, uint32_t id);
void answer_add(struct answer *answer, uint32_t value);
struct answer answer_error(uint32_t id, int error, enum stage stage);

/* Before anything else about connections. */
void connections_begin(void);

/* Take over a connection of the host; it is closed when there are too many. */
void connection_adopt(int fd);

struct connection *connection_at(size_t index);

/* The host has gone. What runs goes on running. */
void connection_drop(struct connection *connection);

/* Read no requests but wait for room, or the other way round. */
void connection_block(struct connection *connection, bool blocked);

/* 0: sent, or nobody is left to send it to (*connection is NULL then); EAGAIN: later; else what the kernel objects to. */
int connection_tell(struct connection **connection, const struct answer *answer, const int *fds, size_t n_fds);

/* For what is not backed by a task: kept in the connection when it does not fit. */
void connection_reply(struct connection *connection, const struct answer *answer);

/* Start a child for a request. 0 or an errno. */
int task_start_worker(struct connection *connection, struct message *request);
int task_start_process(struct connection *connection, struct message *request);

/* Send a signal to a process that was started for the host and has not been reaped. 0 or an errno. */
int task_signal(uint32_t pid, uint32_t number);

/* The child with this pid has executed its program, or failed to. */
void task_started(pid_t pid);

/* Reap what has ended; true when there may be more. */
bool task_reap(void);

/* Tell what this connection has not taken yet, as far as it takes it now. */
void task_flush(struct connection *connection);

/* The connection is lost: nobody will hear of its children. */
void task_forget(const struct connection *connection);

#endif
