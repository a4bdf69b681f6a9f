/* Paths inside the new root. A path never leaves it: symbolic links are followed as if the root were /, magic links of
 * /proc are refused. */
#ifndef CUBE_TREE_H
#define CUBE_TREE_H

#include "steps.h"

/* Open a path of the new root with these O_ flags, close-on-exec. */
int tree_open(const struct sandbox *sandbox, const char *path, int flags);

/* O_PATH descriptor of a mount target; when it is missing, a directory or an empty file is made there. */
int tree_target(const struct sandbox *sandbox, char *path, bool directory);

#endif
