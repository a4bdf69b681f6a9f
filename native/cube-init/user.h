/* Users of the sandbox: /etc/passwd and /etc/group read without libc (no nscd, no nss, bounded), and becoming one of them.
 * Only forked children call these: reading a file of the sandbox may block, which process 1 must never do. */
#ifndef CUBE_USER_H
#define CUBE_USER_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

struct user {
    uint32_t uid, gid;
    char name[256];
    char home[PATH_MAX];
    char shell[PATH_MAX];
};

/* A name or a number (`len` bytes, not terminated); empty means root. Returns 0 or an errno (ESRCH: unknown). */
int user_find(const char *who, size_t len, struct user *user);

/* Real, effective and saved ids, supplementary groups and umask 022. Root keeps its capabilities, anybody else loses
 * them. Returns 0 or an errno. */
int user_become(const struct user *user);

/* The id's name, or its number when it has none. The text lives until the next call of the same function. */
const char *user_name(uint32_t uid);
const char *group_name(uint32_t gid);

/* Number of the group, by name or number. Returns 0 or ESRCH. */
int group_find(const char *who, size_t len, uint32_t *gid);

/* `path` made absolute (relative and `~`: below the user's home) and cleaned lexically, as E2B's agent does.
 * Returns 0, EINVAL (a NUL inside) or ENAMETOOLONG. */
int user_path(const struct user *user, const char *path, size_t len, char out[PATH_MAX]);

#endif
