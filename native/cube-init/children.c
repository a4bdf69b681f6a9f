#include "children.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ONE_OPERATION = 60, WHOLE_TREE = 600 }; /* seconds until a child that hangs is ended */

static void close_from_to(int from, unsigned to)
{
    if (from >= 0 && (unsigned)from <= to)
        syscall(SYS_close_range, from, to, 0);
}

void close_others(int keep, int keep_too)
{
    int low = keep < keep_too ? keep : keep_too, high = keep < keep_too ? keep_too : keep;
    int start = 3;
    if (low >= start) {
        close_from_to(start, (unsigned)low - 1);
        start = low + 1;
    }
    if (high >= start) {
        close_from_to(start, (unsigned)high - 1);
        start = high + 1;
    }
    close_from_to(start, ~0u);
}

void child_begin(unsigned seconds)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    alarm(seconds);
}

char **get_strings(struct reader *body, size_t spare, size_t *count)
{
    *count = get_count(body, sizeof(uint32_t));
    char **list = calloc(*count + spare + 1, sizeof *list);
    for (size_t i = 0; list != NULL && i < *count; i++)
        list[i] = get_string(body);
    return list;
}

/* Process 1 may be spared by the OOM killer; what it starts is not. /proc/self belongs to the host's root as long as
 * the process is not dumpable, hence the moment of being so: nothing is open then but stdio and the report. */
static void reset_oom_score(void)
{
    char score[8] = "";
    int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, score, sizeof score);
    close(fd);
    if (n <= 0 || score[0] == '0')
        return;
    prctl(PR_SET_DUMPABLE, 1);
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, "0", 1); /* without it the process is only spared longer */
    close(fd);
    prctl(PR_SET_DUMPABLE, 0);
}

int execute(const char *program, char **argv, char **env)
{
    reset_oom_score();
    environ = env;
    alarm(0);
    execvp(program, argv);
    return errno;
}

int answer(struct job *job, struct writer *writer, const int *fds, size_t n_fds)
{
    return put_send(writer, job->control, fds, n_fds) ? errno : 0;
}

static int describe_user(struct job *job)
{
    struct writer writer;
    put_begin(&writer, KIND_USER_INFO, job->id);
    put_u32(&writer, job->user.uid);
    put_u32(&writer, job->user.gid);
    put_string(&writer, job->user.name);
    put_string(&writer, job->user.home);
    put_string(&writer, job->user.shell);
    return answer(job, &writer, NULL, 0);
}

static int dispatch(struct job *job)
{
    switch (job->request->kind) {
    case KIND_OPEN:
        return open_file(job);
    case KIND_STAT:
        return stat_path(job);
    case KIND_LIST:
        return list_directory(job);
    case KIND_MAKE_DIR:
        return make_directory(job);
    case KIND_MOVE:
        return move_path(job);
    case KIND_REMOVE:
        return remove_path(job);
    case KIND_WATCH:
        return watch_directory(job);
    }
    return ENOSYS;
}

/* Every request begins with a user; all but USER go on with a path. Returns an errno and where it belongs. */
static int run(struct job *job, enum stage *stage)
{
    struct reader *body = &job->request->body;
    struct bytes who = get_bytes(body), path = {0};
    if (job->request->kind != KIND_USER)
        path = get_bytes(body);
    *stage = STAGE_PATH;
    if (body->bad)
        return EPROTO;
    *stage = STAGE_USER;
    int error = user_find((const char *)who.data, who.size, &job->user);
    if (!error && job->request->kind == KIND_USER)
        return describe_user(job);
    if (!error)
        error = user_become(&job->user);
    if (error)
        return error;
    *stage = STAGE_PATH;
    error = user_path(&job->user, (const char *)path.data, path.size, job->path);
    return error ? error : dispatch(job);
}

static int descriptor_of(const struct message *request)
{
    return request->n_fds ? request->fds[0] : -1;
}

_Noreturn void worker_child(struct message *request, int control)
{
    static struct job job;
    enum stage stage;
    bool whole_tree = request->kind == KIND_LIST || request->kind == KIND_REMOVE || request->kind == KIND_WATCH;
    child_begin(whole_tree ? WHOLE_TREE : ONE_OPERATION);
    close_others(control, descriptor_of(request));
    job.control = control;
    job.id = request->id;
    job.request = request;
    int error = run(&job, &stage);
    bool resources = error == EMFILE || error == ENFILE || error == ENOMEM || error == EAGAIN;
    if (error)
        error = send_error(control, job.id, error, resources ? STAGE_RESOURCES : stage, NULL);
    _exit(error ? 1 : 0);
}
