/* The launcher: `cube-init launch FD`. */
#ifndef CUBE_LAUNCH_H
#define CUBE_LAUNCH_H

/* Answer launch requests on this socket until it closes; returns an exit status. */
int launch(int socket);

#endif
