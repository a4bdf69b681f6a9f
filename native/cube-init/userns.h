/* User namespaces for sandboxes. */
#ifndef CUBE_USERNS_H
#define CUBE_USERNS_H

#include <stdint.h>

/* Descriptor of a new user namespace that maps ids 0…size-1 to base…base+size-1 for users and groups; -1 with errno. */
int userns_create(uint32_t base, uint32_t size);

#endif
