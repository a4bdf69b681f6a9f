/* Children that the host will hear of: processes that it spawned, and workers that carry out its other requests. What is
 * to be told of them is kept here until their connection takes it. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop.h"

enum {
    MAX_TASKS = 16384,  /* at the same time; the pids limit is usually lower */
    MAX_STARTING = 128, /* spawned, not yet executed: each holds four descriptors here */
    REAP_AT_ONCE = 256, /* a storm of orphans must not keep the loop from its connections */
};

enum state { FREE, WORKER, STARTING, RUNNING, FAILED };

/* A child that the host will hear of. Orphans and sudo's children are not here, they are just reaped. */
struct task {
    enum state state;
    pid_t pid;
    uint32_t id;
    struct connection *connection; /* NULL: lost, nobody to tell */
    int report;                    /* while STARTING, until the child has executed or failed; else -1 */
    struct spawn_report outcome;
    int fds[SPAWN_MAX_FDS];
    size_t n_fds;
    bool reaped;
    int wait_status;
};

static struct task tasks[MAX_TASKS];
static size_t tasks_used; /* beyond it every task is FREE */
static size_t starting;

static struct task *add_task(enum state state, pid_t pid, struct connection *connection, uint32_t id)
{
    for (size_t i = 0; i < MAX_TASKS; i++) {
        if (tasks[i].state != FREE)
            continue;
        if (i >= tasks_used)
            tasks_used = i + 1;
        tasks[i] = (struct task){.state = state, .pid = pid, .id = id, .connection = connection, .report = -1};
        return &tasks[i];
    }
    return NULL;
}

static void remove_task(struct task *task)
{
    task->state = FREE;
    task->connection = NULL;
    while (tasks_used && tasks[tasks_used - 1].state == FREE)
        tasks_used--;
}

static void close_fds(struct task *task)
{
    for (size_t i = 0; i < task->n_fds; i++)
        close(task->fds[i]);
    task->n_fds = 0;
}

/* The child has executed, failed or died: read what it reported. */
static void collect_reports(struct task *task)
{
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof(int) * SPAWN_MAX_FDS)];
    } control;
    struct spawn_report report;
    struct iovec part = {&report, sizeof report};
    task->outcome = (struct spawn_report){EIO, STAGE_RESOURCES}; /* died before it said anything */
    for (;;) {
        struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (recvmsg(task->report, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof report)
            break;
        task->outcome = report;
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        if (c != NULL && c->cmsg_type == SCM_RIGHTS && task->n_fds == 0) {
            task->n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(task->fds, CMSG_DATA(c), task->n_fds * sizeof(int));
        }
    }
    loop_close(task->report);
    task->report = -1;
    starting--;
}

/* Tell the host how the start went; false: not now. A process whose start nobody learnt of is ended. */
static bool announce(struct task *task)
{
    struct answer a = answer_error(task->id, task->outcome.error, task->outcome.stage);
    int error = 0;
    if (task->outcome.error == 0) {
        a = answer_begin(KIND_SPAWNED, task->id);
        answer_add(&a, (uint32_t)task->pid);
        error = connection_tell(&task->connection, &a, task->fds, task->n_fds);
    }
    if (error != 0 && error != EAGAIN) {
        task->outcome = (struct spawn_report){EAGAIN, STAGE_RESOURCES};
        a = answer_error(task->id, EAGAIN, STAGE_RESOURCES);
    }
    if (task->outcome.error != 0)
        error = connection_tell(&task->connection, &a, NULL, 0);
    if (error == EAGAIN)
        return false;
    close_fds(task);
    task->state = task->outcome.error == 0 && task->connection != NULL ? RUNNING : FAILED;
    if (task->state == FAILED && !task->reaped)
        kill(task->pid, SIGKILL);
    return true;
}

static bool report_end(struct task *task)
{
    struct answer a = answer_begin(KIND_EXITED, task->id);
    answer_add(&a, (uint32_t)task->pid);
    answer_add(&a, (uint32_t)task->wait_status);
    return connection_tell(&task->connection, &a, NULL, 0) != EAGAIN;
}

/* A worker answers by itself; one that was killed (out of memory, time limit) could not. */
static bool report_worker(struct task *task)
{
    if (task->wait_status == 0)
        return true;
    bool late = WIFSIGNALED(task->wait_status) && WTERMSIG(task->wait_status) == SIGALRM;
    struct answer a = answer_error(task->id, late ? ETIMEDOUT : EIO, STAGE_RESOURCES);
    return connection_tell(&task->connection, &a, NULL, 0) != EAGAIN;
}

/* Take the task as far as it can go now. */
static void advance(struct task *task)
{
    if (task->state == STARTING && (task->report >= 0 || !announce(task)))
        return;
    if (!task->reaped)
        return;
    if (task->state == RUNNING && !report_end(task))
        return;
    if (task->state == WORKER && !report_worker(task))
        return;
    remove_task(task);
}

static struct task *find_task(pid_t pid)
{
    for (size_t i = 0; i < tasks_used; i++)
        if (tasks[i].state != FREE && tasks[i].pid == pid && !tasks[i].reaped)
            return &tasks[i];
    return NULL;
}

static void reaped(struct task *task, int status)
{
    task->reaped = true;
    task->wait_status = status;
    if (task->report >= 0)
        collect_reports(task);
    advance(task);
}

bool task_reap(void)
{
    for (int i = 0; i < REAP_AT_ONCE; i++) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
        if (pid <= 0)
            return false;
        struct task *task = find_task(pid);
        if (task != NULL)
            reaped(task, status);
    }
    return true;
}

/* By pid, not by slot: the event may be older than the task that has the slot now. */
void task_started(pid_t pid)
{
    struct task *task = find_task(pid);
    if (task == NULL || task->report < 0)
        return;
    collect_reports(task);
    advance(task);
}

int task_start_worker(struct connection *connection, struct message *request)
{
    pid_t pid = fork();
    if (pid == 0)
        worker_child(request, connection->fd);
    if (pid < 0)
        return errno;
    /* Without room in the table the worker still answers; only its sudden death would go unnoticed. */
    add_task(WORKER, pid, connection, request->id);
    return 0;
}

/* Fork the child; its socket for reports becomes ours to observe. 0 or an errno. */
static int fork_process(struct task *task, struct message *request)
{
    int pair[2], error = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return errno;
    task->pid = fork();
    if (task->pid == 0)
        spawn_child(request, pair[1]);
    if (task->pid < 0)
        error = errno;
    close(pair[1]);
    /* No events: only that the other end has closed matters. */
    if (!error && loop_observe(pair[0], 0, FROM_TASK, (uint32_t)task->pid)) {
        error = errno;
        kill(task->pid, SIGKILL);
    }
    if (error)
        close(pair[0]);
    else
        task->report = pair[0];
    return error;
}

int task_start_process(struct connection *connection, struct message *request)
{
    struct task *task = starting < MAX_STARTING ? add_task(STARTING, 0, connection, request->id) : NULL;
    if (task == NULL)
        return EAGAIN;
    int error = fork_process(task, request);
    if (error)
        remove_task(task);
    else
        starting++;
    return error;
}

int task_signal(uint32_t pid, uint32_t number)
{
    struct task *task = pid <= INT32_MAX ? find_task((pid_t)pid) : NULL;
    if (task == NULL || task->state != RUNNING)
        return ESRCH;
    return kill(task->pid, (int)number) ? errno : 0;
}

void task_flush(struct connection *connection)
{
    for (size_t i = 0; i < tasks_used && connection->fd >= 0 && !connection->blocked; i++)
        if (tasks[i].state != FREE && tasks[i].connection == connection)
            advance(&tasks[i]);
}

void task_forget(const struct connection *connection)
{
    for (size_t i = 0; i < tasks_used; i++)
        if (tasks[i].connection == connection)
            tasks[i].connection = NULL;
}
