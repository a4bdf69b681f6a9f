/* WATCH: add a directory, or all below it, to an inotify descriptor that the host reads. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "children.h"

enum {
    MASK = IN_CREATE | IN_MODIFY | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF |
           IN_MOVE_SELF | IN_ONLYDIR,
    CHUNK = 32768,
    MAX_DIRECTORIES = 65536,
};

struct watching {
    struct job *job;
    struct writer writer;
    size_t count_at;
    uint32_t in_chunk, total;
    int inotify;
    bool recursive, new_inotify; /* not told to the host yet */
    struct names names;
    size_t top; /* length of the watched path */
    char path[PATH_MAX];
};

static void begin_chunk(struct watching *w)
{
    put_begin(&w->writer, KIND_WATCHES, w->job->id);
    put_u32(&w->writer, 1);
    w->count_at = w->writer.used;
    put_u32(&w->writer, 0);
    w->in_chunk = 0;
}

static int send_chunk(struct watching *w, uint32_t more)
{
    put_u32_at(&w->writer, WIRE_HEADER, more);
    put_u32_at(&w->writer, w->count_at, w->in_chunk);
    size_t n_fds = w->new_inotify ? 1 : 0;
    w->new_inotify = false;
    return answer(w->job, &w->writer, &w->inotify, n_fds);
}

/* ENOSPC is inotify's word for too many watches, not for a full disk. */
static int add_watch(struct watching *w, uint32_t flags)
{
    int wd = inotify_add_watch(w->inotify, w->path, MASK | flags);
    if (wd < 0)
        return errno == ENOSPC ? EAGAIN : errno;
    if (++w->total > MAX_DIRECTORIES)
        return EAGAIN;
    if (w->writer.used >= CHUNK) {
        int error = send_chunk(w, 1);
        if (error)
            return error;
        begin_chunk(w);
    }
    const char *relative = w->path + w->top;
    put_i32(&w->writer, wd);
    put_string(&w->writer, *relative == '/' ? relative + 1 : relative);
    w->in_chunk++;
    return 0;
}

/* Watched before it is read: what is made in between is in the list, or in the events, or in both. */
static int walk(struct watching *w, uint32_t add_flags, int open_flags)
{
    int error = add_watch(w, add_flags);
    if (error || !w->recursive)
        return error;
    struct names before = w->names;
    size_t length = strlen(w->path), count;
    error = names_read(&w->names, w->path, open_flags, &count);
    char **names = w->names.high;
    for (size_t i = 0; !error && i < count; i++) {
        if (path_enter(w->path, length, names[i]))
            error = walk(w, IN_DONT_FOLLOW, O_NOFOLLOW);
        if (error == ENOTDIR || error == ENOENT || error == EACCES || error == ELOOP)
            error = 0; /* a file, a link, gone, or not for this user */
    }
    w->path[length] = 0;
    w->names = before;
    return error;
}

int watch_directory(struct job *job)
{
    static struct watching w;
    w.recursive = get_u32(&job->request->body) != 0;
    if (!get_end(&job->request->body))
        return EPROTO;
    w.job = job;
    w.inotify = message_take_fd(job->request, 0);
    w.new_inotify = w.inotify < 0;
    if (w.new_inotify)
        w.inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w.inotify < 0)
        return errno;
    strcpy(w.path, job->path);
    w.top = strlen(w.path);
    if (names_begin(&w.names))
        return ENOMEM;
    begin_chunk(&w);
    int error = walk(&w, 0, 0);
    if (!error)
        return send_chunk(&w, 0);
    put_discard(&w.writer);
    return error;
}
