/* LIST: a directory and what is below it, sorted, in chunks. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "children.h"

enum {
    CHUNK = 32768, /* and at most one entry (paths, names, METADATA_MAX) more: below WIRE_INLINE_MAX */
    MAX_ENTRIES = 200000,
};

struct listing {
    struct job *job;
    struct writer writer;
    size_t count_at;
    uint32_t in_chunk, total;
    struct names names;
    char path[PATH_MAX];
};

static void begin_chunk(struct listing *l)
{
    put_begin(&l->writer, KIND_ENTRIES, l->job->id);
    put_u32(&l->writer, 1);
    l->count_at = l->writer.used;
    put_u32(&l->writer, 0);
    l->in_chunk = 0;
}

static int send_chunk(struct listing *l, uint32_t more)
{
    put_u32_at(&l->writer, WIRE_HEADER, more);
    put_u32_at(&l->writer, l->count_at, l->in_chunk);
    return answer(l->job, &l->writer, NULL, 0);
}

static int add_entry(struct listing *l, mode_t *mode)
{
    if (l->writer.used >= CHUNK) {
        int error = send_chunk(l, 1);
        if (error)
            return error;
        begin_chunk(l);
    }
    size_t used = l->writer.used;
    int error = put_entry(&l->writer, l->path, mode);
    if (error) { /* gone in the meantime, or hidden */
        l->writer.used = used;
        *mode = 0;
        return 0;
    }
    l->in_chunk++;
    return ++l->total > MAX_ENTRIES ? EOVERFLOW : 0;
}

static int walk(struct listing *l, uint32_t depth, int flags);

/* A directory that cannot be read is listed, what is in it is not. */
static int visit(struct listing *l, uint32_t depth)
{
    mode_t mode;
    int error = add_entry(l, &mode);
    if (error || !S_ISDIR(mode) || depth <= 1)
        return error;
    error = walk(l, depth - 1, O_NOFOLLOW);
    return error == EACCES || error == ENOENT || error == ENOTDIR || error == ELOOP ? 0 : error;
}

static int walk(struct listing *l, uint32_t depth, int flags)
{
    struct names before = l->names;
    size_t length = strlen(l->path), count;
    int error = names_read(&l->names, l->path, flags, &count);
    char **names = l->names.high;
    for (size_t i = 0; !error && i < count; i++)
        if (path_enter(l->path, length, names[i]))
            error = visit(l, depth);
    l->path[length] = 0;
    l->names = before;
    return error;
}

int list_directory(struct job *job)
{
    static struct listing l;
    uint32_t depth = get_u32(&job->request->body);
    if (!get_end(&job->request->body))
        return EPROTO;
    l.job = job;
    strcpy(l.path, job->path);
    if (names_begin(&l.names))
        return ENOMEM;
    begin_chunk(&l);
    int error = walk(&l, depth ? depth : 1, 0);
    if (!error)
        return send_chunk(&l, 0);
    put_discard(&l.writer);
    return error;
}
