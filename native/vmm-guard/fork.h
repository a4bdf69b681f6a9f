/* See fork.c. */
#ifndef VMM_FORK_H
#define VMM_FORK_H

#include <stdint.h>

/* A descriptor of events was made, some descriptor was closed. */
void note_event(int fd);
void note_closed(int fd);

/* Make a thread with `make`, which is the C library's pthread_create(), and remember it. */
typedef int make_thread_fn(void *thread, const void *attributes, void *(*run)(void *), void *argument);
int make_thread(make_thread_fn *make, void *thread, const void *attributes, void *(*run)(void *), void *argument);

/* What QEMU takes off the kernel's hands at its interface, in the words of TUNSETOFFLOAD. */
void note_offload(uint32_t features);

#endif
