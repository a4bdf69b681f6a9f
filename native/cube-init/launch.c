#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "plan.h"
#include "steps.h"
#include "userns.h"
#include "wire.h"

/* Too large for a stack, and every clone has a copy of its own. */
static struct message message;
static struct plan plan = {.parked_control = -1};

static int make_namespace(void)
{
    uint32_t base = get_u32(&message.body), size = get_u32(&message.body);
    if (get_end(&message.body))
        return userns_create(base, size);
    errno = EBADMSG;
    return -1;
}

static int make_id_map(void)
{
    struct extent extents[EXTENTS_MAX];
    uint32_t owner = get_u32(&message.body), count = get_count(&message.body, 3 * sizeof(uint32_t));
    for (uint32_t i = 0; i < count && i < EXTENTS_MAX; i++) {
        extents[i].inside = get_u32(&message.body);
        extents[i].outside = get_u32(&message.body);
        extents[i].size = get_u32(&message.body);
    }
    /* More extents than there is room for are left in the message. */
    if (get_end(&message.body))
        return userns_create_mapped(owner, extents, count);
    errno = EBADMSG;
    return -1;
}

static int answer_namespace(int socket, int fd)
{
    if (fd < 0)
        return send_error(socket, message.id, errno, 0, "user namespace");
    struct writer writer;
    put_begin(&writer, KIND_NAMESPACE, message.id);
    int result = put_send(&writer, socket, &fd, 1);
    close(fd);
    return result;
}

static int answer_launched(int socket, pid_t pid, int pidfd)
{
    struct writer writer;
    put_begin(&writer, KIND_LAUNCHED, message.id);
    put_u32(&writer, (uint32_t)pid);
    int result = put_send(&writer, socket, &pidfd, 1);
    /* Whoever asked could not be told: the sandbox belongs to nobody. */
    if (result < 0)
        k_pidfd_send_signal(pidfd, SIGKILL);
    close(pidfd);
    return result;
}

static int answer_launch(int socket)
{
    if (plan_decode(&plan, &message) < 0)
        return send_error(socket, message.id, errno, plan.n_steps, "malformed step");
    int pidfd = -1, cgroup = plan_cgroup(&plan);
    const struct k_clone_args arguments = {
        .flags = K_CLONE_PIDFD | K_CLONE_NEWNS | K_CLONE_NEWIPC | K_CLONE_NEWUTS |
                 (plan_shares_pids(&plan) ? 0 : K_CLONE_NEWPID) | (cgroup < 0 ? 0 : K_CLONE_INTO_CGROUP),
        .cgroup = cgroup < 0 ? 0 : (uint64_t)cgroup,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = k_clone3(&arguments);
    if (pid < 0)
        return send_error(socket, message.id, errno, UINT32_MAX, "clone3");
    if (pid > 0)
        return answer_launched(socket, pid, pidfd);
    close(socket);
    _exit(sandbox_start(&plan, &message));
}

static int answer(int socket)
{
    switch (message.kind) {
    case KIND_USERNS: return answer_namespace(socket, make_namespace());
    case KIND_ID_MAP: return answer_namespace(socket, make_id_map());
    case KIND_LAUNCH: return answer_launch(socket);
    default: return send_error(socket, message.id, ENOSYS, 0, "unknown request");
    }
}

/* Every clone inherits this. */
static int prepare(void)
{
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    /* The kernel reaps; who wants to know of an end has a pidfd. */
    signal(SIGCHLD, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Out of the terminal's session, where Ctrl-C goes to everyone. EPERM: leads one already. */
    if (setsid() < 0 && errno != EPERM)
        return -1;
    int null = open("/dev/null", O_RDWR);
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (null < 0 || (null != fd && dup2(null, fd) < 0))
            return -1;
    if (null > STDERR_FILENO)
        close(null);
    prctl(PR_SET_NAME, "cube-launch", 0, 0, 0);
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -1 : chdir("/");
}

int launch(int socket)
{
    if (prepare() < 0 || fcntl(socket, F_SETFD, FD_CLOEXEC) < 0) {
        perror("cube-init launch");
        return 1;
    }
    for (;;) {
        int received = message_receive(socket, &message);
        if (received == 0)
            return 0;
        int result = -1;
        if (received > 0)
            result = answer(socket);
        else if (errno == EBADMSG)
            /* Such as one whose descriptors did not all find room here. */
            result = send_error(socket, message.id, EBADMSG, UINT32_MAX, "malformed message");
        message_release(&message);
        if (result < 0)
            return errno == EPIPE ? 0 : 1;
    }
}
