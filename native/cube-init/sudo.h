/* The serving side of sudo: see docs/cube-init.md. */
#ifndef CUBE_SUDO_H
#define CUBE_SUDO_H

#include "serve.h"

/* Listen on the abstract socket of this network namespace; -1 when that is impossible. */
int sudo_listen(const struct serve_config *config);

/* Take what waits on that socket; each connection is served by a child of its own. */
void sudo_accept(void);

#endif
