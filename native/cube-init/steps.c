#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "serve.h"

/* Stage of an ERROR for what happens before the first step. */
#define BEFORE_STEPS UINT32_MAX

int step_failed(struct sandbox *sandbox, const char *what)
{
    int saved = errno;
    if (sandbox->detail[0] == 0)
        snprintf(sandbox->detail, sizeof sandbox->detail, "%.200s", what);
    errno = saved;
    return -1;
}

/* Close everything but the standard descriptors and these two. */
static int close_others(unsigned a, unsigned b)
{
    unsigned low = a < b ? a : b, high = a < b ? b : a;
    if (low > STDERR_FILENO + 1 && k_close_range(STDERR_FILENO + 1, low - 1) < 0)
        return -1;
    if (high > low + 1 && k_close_range(low + 1, high - 1) < 0)
        return -1;
    return k_close_range(high + 1, UINT_MAX);
}

int step_serve(struct sandbox *sandbox, const union field *f)
{
    const struct serve_config config = {
        .control_fd = f[0].fd,
        .listen_fd = f[1].fd,
        .sudo_uids = &sandbox->plan->numbers[f[2].span.first],
        .n_sudo = f[2].span.count,
    };
    if (close_others((unsigned)config.control_fd, (unsigned)config.listen_fd) < 0)
        return step_failed(sandbox, "close_range");
    umask(022);
    /* From here on the sandbox outlives the launcher. */
    if (prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) < 0)
        return step_failed(sandbox, "prctl");
    /* Again: becoming another user sets it back to what fs.suid_dumpable says. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return step_failed(sandbox, "prctl");
    _exit(serve(&config));
}

/* What no plan has to ask for. The launcher has already seen to working directory, standard descriptors and signals. */
static int begin(struct sandbox *sandbox)
{
    signal(SIGCHLD, SIG_DFL);
    umask(0);
    /* Until it serves: a launcher that dies may not have told anyone of this process. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || prctl(PR_SET_NAME, "cube-init", 0, 0, 0) < 0 || setsid() < 0)
        return step_failed(sandbox, "process");
    /* Nothing that happens here shows outside, and no mount made outside shows here. */
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return step_failed(sandbox, "mount");
    return 0;
}

/* Index of the step that failed; the last step does not return. */
static uint32_t run(struct sandbox *sandbox)
{
    uint32_t index = 0;
    for (const struct step *step = sandbox->plan->steps; step->operation->run(sandbox, step->fields) == 0; step++)
        index++;
    return index;
}

static int report(const struct sandbox *sandbox, uint32_t failed)
{
    send_error(plan_control(sandbox->plan), 0, errno, failed, sandbox->detail);
    return 1;
}

/* Wait for the second plan; the host closes its end when there will be none. */
static bool next_plan(struct sandbox *sandbox)
{
    if (message_receive(sandbox->plan->parked_control, sandbox->message) <= 0 || sandbox->message->kind != KIND_LAUNCH)
        return false;
    return plan_decode(sandbox->plan, sandbox->message) == 0;
}

int step_park(struct sandbox *sandbox, const union field *f)
{
    /* The first plan's descriptors go with its message; this one stays. */
    int control = fcntl(f[0].fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    struct writer writer;
    put_begin(&writer, KIND_PARKED, 0);
    if (control < 0 || put_send(&writer, control, NULL, 0) < 0)
        return step_failed(sandbox, "control socket");
    message_release(sandbox->message);
    sandbox->plan->parked_control = control;
    if (!next_plan(sandbox))
        _exit(1);
    _exit(report(sandbox, run(sandbox)));
}

int sandbox_start(struct plan *plan, struct message *message)
{
    struct sandbox sandbox = {.plan = plan, .message = message, .root = -1};
    return report(&sandbox, begin(&sandbox) < 0 ? BEFORE_STEPS : run(&sandbox));
}
