/* Requests about one path: open, stat, make, move. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "children.h"

enum { READ = 0, WRITE = 1 }; /* `how` of OPEN */

int make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int error = mkdir(path, 0755) && errno != EEXIST ? errno : 0;
        *slash = '/';
        if (error)
            return error;
    }
    return 0;
}

static int tell_entry(struct job *job, const char *path, const int *fds, size_t n_fds)
{
    struct writer writer;
    put_begin(&writer, KIND_ENTRY, job->id);
    int error = put_entry(&writer, path, NULL);
    if (error)
        put_discard(&writer);
    return error ? error : answer(job, &writer, fds, n_fds);
}

/* Only regular files: opening anything else may block or do something. Looked at before, because opening is enough to
 * wake whoever waits on a FIFO, and after, because the path may lead elsewhere by then. */
static int regular(const struct stat *st)
{
    return S_ISREG(st->st_mode) ? 0 : S_ISDIR(st->st_mode) ? EISDIR : EINVAL;
}

static int open_regular(const char *path, int flags, mode_t mode, int *fd)
{
    struct stat st;
    int error = stat(path, &st) ? errno : regular(&st);
    if (error && !(error == ENOENT && (flags & O_CREAT)))
        return error;
    *fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, mode);
    if (*fd < 0)
        return errno;
    return fstat(*fd, &st) ? errno : regular(&st);
}

/* The owner is set even when that changes nothing: who watches expects CREATE, CHMOD, WRITE, as E2B's agent makes them.
 * Only root may give away a file; for others it stays as it is. */
static int create(struct job *job, mode_t mode, int *fd)
{
    enum { FLAGS = O_WRONLY | O_CREAT | O_TRUNC };
    int error = open_regular(job->path, FLAGS, mode, fd);
    if (error == ENOENT) {
        error = make_parents(job->path);
        if (!error)
            error = open_regular(job->path, FLAGS, mode, fd);
    }
    if (!error && fchown(*fd, job->user.uid, job->user.gid) && errno != EPERM)
        return errno;
    return error;
}

int open_file(struct job *job)
{
    struct reader *body = &job->request->body;
    uint32_t how = get_u32(body), mode = get_u32(body);
    int fd = -1;
    if (!get_end(body) || how > WRITE)
        return EPROTO;
    int error = how == READ ? open_regular(job->path, O_RDONLY, 0, &fd) : create(job, mode & 07777, &fd);
    return error ? error : tell_entry(job, job->path, &fd, 1);
}

int stat_path(struct job *job)
{
    return get_end(&job->request->body) ? tell_entry(job, job->path, NULL, 0) : EPROTO;
}

int make_directory(struct job *job)
{
    struct stat st;
    if (!get_end(&job->request->body))
        return EPROTO;
    if (stat(job->path, &st) == 0)
        return S_ISDIR(st.st_mode) ? EEXIST : ENOTDIR;
    int error = errno == ENOENT ? make_parents(job->path) : errno;
    if (!error && mkdir(job->path, 0755))
        error = errno;
    return error ? error : tell_entry(job, job->path, NULL, 0);
}

int move_path(struct job *job)
{
    static char destination[PATH_MAX];
    struct stat st;
    struct bytes to = get_bytes(&job->request->body);
    if (!get_end(&job->request->body))
        return EPROTO;
    int error = user_path(&job->user, (const char *)to.data, to.size, destination);
    if (error)
        return error;
    if (lstat(job->path, &st))
        return errno;
    if (rename(job->path, destination)) {
        error = errno == ENOENT ? make_parents(destination) : errno;
        if (!error && rename(job->path, destination))
            error = errno;
    }
    return error ? error : tell_entry(job, destination, NULL, 0);
}
