#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel.h"

int tree_open(const struct sandbox *sandbox, const char *path, int flags)
{
    struct k_open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .resolve = K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS,
    };
    return k_openat2(sandbox->root, path, &how);
}

/* A name in an open directory. */
struct place {
    int directory;
    const char *name;
};

static int find_place(const struct sandbox *sandbox, char *path, struct place *place);

/* What is made on the way to something belongs to the owner of the root; on the host it would be made as root, whom the
 * sandbox does not know. */
static int give(const struct sandbox *sandbox, const struct place *place)
{
    return fchownat(place->directory, place->name, sandbox->uid, sandbox->gid, AT_SYMLINK_NOFOLLOW);
}

static int open_made(const struct place *place, int flags)
{
    return openat(place->directory, place->name, flags | O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

/* O_PATH descriptor of a directory; what is missing of it is made. */
static int open_directory(const struct sandbox *sandbox, char *path)
{
    int fd = tree_open(sandbox, path, O_PATH | O_DIRECTORY);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    struct place place;
    if (find_place(sandbox, path, &place) < 0 || mkdirat(place.directory, place.name, 0755) < 0 ||
        give(sandbox, &place) < 0)
        return -1;
    return open_made(&place, O_DIRECTORY);
}

/* Split a path into its directory, which is made when it is missing, and the name in it. */
static int find_place(const struct sandbox *sandbox, char *path, struct place *place)
{
    char *slash = strrchr(path, '/');
    place->name = slash == NULL ? path : slash + 1;
    if (*place->name == 0 || strcmp(place->name, ".") == 0 || strcmp(place->name, "..") == 0) {
        errno = EINVAL;
        return -1;
    }
    if (slash == NULL || slash == path) {
        place->directory = sandbox->root;
        return 0;
    }
    *slash = 0;
    place->directory = open_directory(sandbox, path);
    *slash = '/';
    return place->directory < 0 ? -1 : 0;
}

static int make_empty(const struct place *place, bool directory)
{
    if (directory)
        return mkdirat(place->directory, place->name, 0755);
    return mknodat(place->directory, place->name, S_IFREG | 0644, 0);
}

int tree_target(const struct sandbox *sandbox, char *path, bool directory)
{
    int fd = tree_open(sandbox, path, O_PATH);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    struct place place;
    if (find_place(sandbox, path, &place) < 0)
        return -1;
    int made = make_empty(&place, directory);
    /* It is missing and yet it is there: a link to nowhere, such as the /etc/resolv.conf of many images. */
    if (made < 0 && errno == EEXIST && unlinkat(place.directory, place.name, 0) == 0)
        made = make_empty(&place, directory);
    if (made < 0 || give(sandbox, &place) < 0)
        return -1;
    return open_made(&place, 0);
}

/* The place of something new; an older file or link in its place is removed. */
static int clear_place(const struct sandbox *sandbox, char *path, struct place *place)
{
    if (find_place(sandbox, path, place) < 0)
        return -1;
    return unlinkat(place->directory, place->name, 0) < 0 && errno != ENOENT ? -1 : 0;
}

int step_mknod(struct sandbox *sandbox, const union field *f)
{
    struct place place;
    if (clear_place(sandbox, f[0].string, &place) < 0 ||
        mknodat(place.directory, place.name, f[1].u32, makedev(f[2].u32, f[3].u32)) < 0)
        return -1;
    return fchownat(place.directory, place.name, f[4].u32, f[5].u32, AT_SYMLINK_NOFOLLOW);
}

int step_symlink(struct sandbox *sandbox, const union field *f)
{
    struct place place;
    if (clear_place(sandbox, f[1].string, &place) < 0 || symlinkat(f[0].string, place.directory, place.name) < 0)
        return -1;
    return give(sandbox, &place);
}

int step_directory(struct sandbox *sandbox, const union field *f)
{
    if (open_directory(sandbox, f[0].string) < 0)
        return -1;
    /* Not O_PATH, for fchmod. */
    int fd = tree_open(sandbox, f[0].string, O_RDONLY | O_DIRECTORY);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) < 0)
        return -1;
    /* A change, even to the same value, makes an overlay copy the directory up. */
    if ((stat.st_uid != f[2].u32 || stat.st_gid != f[3].u32) && fchown(fd, f[2].u32, f[3].u32) < 0)
        return -1;
    return (stat.st_mode & 07777) == f[1].u32 ? 0 : fchmod(fd, f[1].u32);
}

static int write_all(int fd, struct bytes content)
{
    while (content.size > 0) {
        ssize_t written = write(fd, content.data, content.size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        content.data += written;
        content.size -= (uint32_t)written;
    }
    return 0;
}

int step_file(struct sandbox *sandbox, const union field *f)
{
    struct place place;
    if (clear_place(sandbox, f[0].string, &place) < 0)
        return -1;
    /* Made anew and not truncated: what is there may be a link, a pipe, or a second name of another file. */
    int fd = openat(place.directory, place.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || write_all(fd, f[4].bytes) < 0 || fchown(fd, f[2].u32, f[3].u32) < 0)
        return -1;
    return fchmod(fd, f[1].u32);
}
