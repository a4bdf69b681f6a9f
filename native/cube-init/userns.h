/* User namespaces for sandboxes. */
#ifndef CUBE_USERNS_H
#define CUBE_USERNS_H

#include <stddef.h>
#include <stdint.h>

/* Descriptor of a new user namespace that maps ids 0…size-1 to base…base+size-1 for users and groups; -1 with errno. */
int userns_create(uint32_t base, uint32_t size);

/* Consecutive ids: inside…inside+size-1 stand for outside…outside+size-1. */
struct extent {
    uint32_t inside;
    uint32_t outside;
    uint32_t size;
};

enum { EXTENTS_MAX = 8 };

/* The same with any map; the namespace belongs to the user `owner`. For id-mapped mounts, never for a process to enter. */
int userns_create_mapped(uint32_t owner, const struct extent *extents, size_t n_extents);

#endif
