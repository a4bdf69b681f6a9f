/* The threads of QEMU: who is there, stopping all of them, making them again in a fork. */
#ifndef VMM_THREADS_H
#define VMM_THREADS_H

#include <stdint.h>

/* To be called first, by the main thread; only then the others are remembered. */
void threads_remember(void);

/* Make a thread with `make`, which is the C library's pthread_create(), and remember it. */
typedef int make_thread_fn(void *thread, const void *attributes, void *(*run)(void *), void *argument);
int threads_make(make_thread_fn *make, void *thread, const void *attributes, void *(*run)(void *), void *argument);

/* Stop every thread but the caller, who is none of QEMU's; 0 or an error. threads_go_on() has to follow. */
int threads_stop(void);

/* Have the main thread, which is stopped, fork; in the child it calls `in_child` and goes on. 0 or an error. */
int threads_fork(void (*in_child)(void));

/* Let all threads go on; returns when they do. */
void threads_go_on(void);

/* Make the others in a fork, for its main thread; each goes on where it was stopped. 0 or the negated error. */
long threads_make_again(void);

#endif
