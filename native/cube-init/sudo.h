/* sudo without set-uid programs: the client (any user of the sandbox) asks process 1 over an abstract socket of the
 * sandbox's network namespace, and a child of process 1 becomes the asked user. Who may do that is decided by the user
 * id that the kernel attests for the socket's peer. Messages have the format of wire.h. */
#ifndef CUBE_SUDO_H
#define CUBE_SUDO_H

#include <stdint.h>

#include "serve.h"

#define SUDO_ADDRESS "cube-sudo" /* after the zero byte of an abstract address */

enum sudo_kind {
    /* From the client, first: u32 flags, u32 columns, u32 rows, bytes termios, bytes user, bytes group (empty: the
     * user's), bytes directory (empty: where the client is), bytes program, list argv, list env; descriptors: working
     * directory, stdin, stdout, stderr. Without arguments nothing is run, and SUDO_ENDED says that it would be. */
    SUDO_RUN = 1,
    SUDO_SIGNAL = 2, /* u32 number, for the command's process group */
    /* To the client. */
    SUDO_REFUSED = 3,
    SUDO_STARTED = 4, /* with SUDO_TERMINAL: the master of the command's terminal */
    SUDO_FAILED = 5,  /* i32 errno, u32 stage; then nothing more */
    SUDO_STOPPED = 6, /* the command was stopped, as by Control-Z */
    SUDO_ENDED = 7,   /* i32 wait status */
};

enum sudo_flag {
    SUDO_TERMINAL = 1,        /* stdin and stdout become a new terminal */
    SUDO_TERMINAL_STDERR = 2, /* stderr, too */
    SUDO_BACKGROUND = 4,      /* the command outlives the client */
};

/* Listen; -1 when that is impossible. */
int sudo_listen(const struct serve_config *config);

/* Take what waits on that socket; each connection is served by a child of its own. */
void sudo_accept(void);

#endif
