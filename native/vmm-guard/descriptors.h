/* The descriptors of a machine: what a fork has instead of its zygote's. */
#ifndef VMM_DESCRIPTORS_H
#define VMM_DESCRIPTORS_H

#include <stdint.h>

/* Over which requests come; cube.cubelet.runtime.microvm.command says so, too. */
enum { REQUESTS = 9 };

/* What comes with a request, in this order, then one descriptor to join each cgroup. */
enum {
    NEW_MONITOR, /* listening sockets, this one and the next two */
    NEW_SECOND_MONITOR,
    NEW_CONTROL,
    NEW_LAYER,
    NEW_TAP,
    NEW_STDERR,
    NEW_MONITOR_CONNECTION, /* connected sockets, this one and the next */
    NEW_CONTROL_CONNECTION,
    N_REPLACED,
    MAX_GIVEN = N_REPLACED + 16,
};

struct given {
    int fds[MAX_GIVEN];
    uint32_t count;
};

/* A descriptor of events was made, some descriptor was closed. */
void descriptors_note_event(int fd);
void descriptors_note_closed(int fd);

/* What QEMU takes off the kernel's hands at its interface, in the words of TUNSETOFFLOAD. */
void descriptors_note_offload(uint32_t features);

/* To be called before QEMU begins: what it was given is what will be replaced. */
void descriptors_remember(void);

/* Find the connections that the service has to the monitor and to the guest; whether each is there once. */
int descriptors_find_connections(const struct given *given);

/* Replace everything in a fork. 0 or the negated error. */
long descriptors_replace(const struct given *given);

void descriptors_close(const struct given *given);

#endif
