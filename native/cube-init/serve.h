/* The two halves of cube-init meet here: the launch half ends by calling serve(). */
#ifndef CUBE_SERVE_H
#define CUBE_SERVE_H

#include <stddef.h>
#include <stdint.h>

struct serve_config {
    int control_fd;            /* connected control socket of the host */
    int listen_fd;             /* listening socket for further control connections, -1 for none */
    const uint32_t *sudo_uids; /* users that may become root through sudo */
    size_t n_sudo;
};

/* Send READY on control_fd, then reap and serve for ever; returns an exit status when serving is impossible.
 * Called as process 1 with every right already given up, working directory /, umask 022, default signal dispositions,
 * nothing blocked, not dumpable, leader of its session, standard descriptors on /dev/null and no other descriptor
 * open than these two. Also called by `cube-init serve-test`, where it is an ordinary process. */
int serve(const struct serve_config *config);

/* `sudo`, as executed inside a sandbox. */
int sudo_main(int argc, char **argv);

#endif
