/* Entries of directories, as they are told to the host. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "children.h"

enum {
    NAMES_MAX = 65536,    /* XATTR_LIST_MAX of the kernel */
    METADATA_MAX = 16384, /* bytes of attributes told of one entry; E2B sets at most 4096 */
    TYPE_OTHER = 0,
    TYPE_FILE = 1,
    TYPE_DIRECTORY = 2,
};

static uint32_t type_of(mode_t mode)
{
    return S_ISREG(mode) ? TYPE_FILE : S_ISDIR(mode) ? TYPE_DIRECTORY : TYPE_OTHER;
}

/* Where a symlink leads: the resolved path, or what is written in it when it dangles. */
static const char *target_of(const char *path, bool dangling)
{
    static char target[PATH_MAX];
    if (!dangling && realpath(path, target) != NULL)
        return target;
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n < 0 ? 0 : n] = 0;
    return target;
}

/* Attributes `user.e2b.*` without that prefix; what exceeds METADATA_MAX is left out. */
static void put_metadata(struct writer *writer, const char *path)
{
    static const char prefix[] = "user.e2b.";
    static char names[NAMES_MAX], value[METADATA_MAX];
    size_t count_at = writer->used, prefix_size = sizeof prefix - 1, budget = METADATA_MAX;
    uint32_t count = 0;
    put_u32(writer, 0);
    ssize_t size = listxattr(path, names, sizeof names);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        const char *key = names + at + prefix_size;
        if (strncmp(names + at, prefix, prefix_size) != 0)
            continue;
        ssize_t length = getxattr(path, names + at, value, sizeof value);
        if (length < 0 || strlen(key) + (size_t)length > budget)
            continue;
        budget -= strlen(key) + (size_t)length;
        put_string(writer, key);
        put_bytes(writer, value, (size_t)length);
        count++;
    }
    put_u32_at(writer, count_at, count);
}

int put_entry(struct writer *writer, const char *path, mode_t *link_mode)
{
    struct stat own, st;
    if (lstat(path, &own))
        return errno;
    bool link = S_ISLNK(own.st_mode), dangling = link && stat(path, &st) != 0;
    if (!link || dangling)
        st = own;
    if (link_mode != NULL)
        *link_mode = own.st_mode;
    put_string(writer, path);
    put_u32(writer, type_of(st.st_mode));
    put_u32(writer, st.st_mode);
    put_u32(writer, own.st_mode);
    put_u64(writer, (uint64_t)st.st_size);
    put_i64(writer, (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
    put_u32(writer, st.st_uid);
    put_u32(writer, st.st_gid);
    put_string(writer, user_name(st.st_uid));
    put_string(writer, group_name(st.st_gid));
    put_string(writer, link ? target_of(path, dangling) : "");
    put_metadata(writer, path);
    return 0;
}
