/* REMOVE: a file or a tree. Works on directory descriptors, one at a time, so that nobody can lead it out of the tree by
 * putting a symlink in its way, however deep the tree is. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "children.h"

enum { DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };
enum { MAX_DEPTH = 16384, MAX_TRIES = 16 };

/* The way back: every directory between the top of the tree and the current one. */
struct identity {
    dev_t device;
    ino_t inode;
};

static struct identity way[MAX_DEPTH];

static int identify(int fd, struct identity *identity)
{
    struct stat st;
    if (fstat(fd, &st))
        return errno;
    *identity = (struct identity){st.st_dev, st.st_ino};
    return 0;
}

static bool dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* 0: gone. EISDIR: a directory with something in it. */
static int remove_one(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    int error = errno;
    if (error != EISDIR && error != EPERM) /* EPERM is what POSIX says, EISDIR what Linux does */
        return error;
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    if (errno == ENOTDIR)
        return error;
    return errno == ENOTEMPTY || errno == EEXIST ? EISDIR : errno;
}

/* Empty the directory as far as its files go. At a directory that is not empty stop with EISDIR and its name. */
static int remove_files(int fd, char name[NAME_MAX + 1])
{
    int copy = openat(fd, ".", DIRECTORY_FLAGS), error = 0; /* a read position of its own */
    DIR *directory = copy < 0 ? NULL : fdopendir(copy);
    if (directory == NULL)
        return errno;
    for (struct dirent *d; !error && (d = readdir(directory)) != NULL;)
        if (!dots(d->d_name) && (error = remove_one(fd, d->d_name)) == EISDIR)
            strcpy(name, d->d_name);
    closedir(directory);
    return error;
}

static int go(int *fd, const char *name)
{
    int next = openat(*fd, name, DIRECTORY_FLAGS);
    if (next < 0)
        return errno;
    close(*fd);
    *fd = next;
    return 0;
}

static int descend(int *fd, const char *name, size_t *depth)
{
    if (*depth == MAX_DEPTH)
        return ENAMETOOLONG;
    int error = identify(*fd, &way[*depth]);
    if (!error)
        error = go(fd, name);
    *depth += !error;
    return error;
}

/* Whoever moves a directory while it is being removed must not lead us elsewhere. */
static int climb(int *fd, size_t *depth)
{
    struct identity here, expected = way[--*depth];
    int error = go(fd, "..");
    if (!error)
        error = identify(*fd, &here);
    if (!error && (here.device != expected.device || here.inode != expected.inode))
        error = EBUSY;
    return error;
}

/* After climbing, the emptied directory is met again and is removed then. */
static int empty_tree(int *fd)
{
    char name[NAME_MAX + 1];
    size_t depth = 0;
    for (;;) {
        int error = remove_files(*fd, name);
        if (error == EISDIR)
            error = descend(fd, name, &depth);
        else if (!error && depth == 0)
            return 0;
        else if (!error)
            error = climb(fd, &depth);
        if (error)
            return error;
    }
}

static int try_remove_tree(int parent, const char *name)
{
    int fd = openat(parent, name, DIRECTORY_FLAGS);
    if (fd < 0)
        return errno == ENOENT ? 0 : errno;
    int error = empty_tree(&fd);
    close(fd);
    return error ? error : remove_one(parent, name);
}

/* ENOENT: somebody else removes the same tree; EISDIR: somebody put something new into it. */
static int remove_tree(int parent, const char *name)
{
    int error = EISDIR;
    for (int tries = 0; tries < MAX_TRIES && (error == EISDIR || error == ENOENT); tries++)
        error = try_remove_tree(parent, name);
    return error == EISDIR ? ENOTEMPTY : error;
}

int remove_path(struct job *job)
{
    char *name = strrchr(job->path, '/') + 1;
    if (!get_end(&job->request->body))
        return EPROTO;
    if (!*name)
        return EINVAL; /* the root itself */
    char first = *name;
    *name = 0;
    int parent = open(job->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    *name = first;
    if (parent < 0 && errno != ENOENT)
        return errno;
    int error = parent < 0 ? 0 : remove_one(parent, name);
    if (error == EISDIR)
        error = remove_tree(parent, name);
    if (error)
        return error;
    struct writer writer;
    put_begin(&writer, KIND_OK, job->id);
    return answer(job, &writer, NULL, 0);
}
