/* relay.c, for relay_messages.c. */
#ifndef CUBE_RELAY_STATE_H
#define CUBE_RELAY_STATE_H

#include "relay.h"

int relay_control(void);
const struct machine *relay_machine(void);

/* Process 1 serves. */
void relay_ready(void);

#endif
