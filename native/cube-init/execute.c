/* The other way to end a plan: become a program of the new root instead of serving a sandbox. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "steps.h"

/* Above every number that the program's descriptors get, so that moving one there never covers another. */
enum { ASIDE = STDERR_FILENO + 1 + MAX_NUMBERS };

/* Descriptors 3, 4, … of the program, in the order of the step. */
static int place_fds(const uint32_t *fds, uint32_t count)
{
    int aside[MAX_NUMBERS];
    for (uint32_t i = 0; i < count; i++)
        if ((aside[i] = fcntl((int)fds[i], F_DUPFD_CLOEXEC, ASIDE)) < 0)
            return -1;
    for (uint32_t i = 0; i < count; i++)
        if (dup2(aside[i], STDERR_FILENO + 1 + (int)i) < 0)
            return -1;
    return 0;
}

/* Close everything above the program's own descriptors but the control socket, which closes when the program runs. */
static int close_rest(unsigned first, unsigned control)
{
    if (control > first && k_close_range(first, control - 1) < 0)
        return -1;
    return k_close_range(control + 1, UINT_MAX);
}

static int arrange(const struct sandbox *sandbox, union field *f, int control)
{
    const struct plan *plan = sandbox->plan;
    if (dup2(f[1].fd, STDERR_FILENO) < 0 || place_fds(&plan->numbers[f[5].span.first], f[5].span.count) < 0)
        return -1;
    /* A failure is reported on the socket that the last step names. */
    f[0].fd = control;
    return close_rest(STDERR_FILENO + 1 + f[5].span.count, (unsigned)control);
}

int step_execute(struct sandbox *sandbox, const union field *f)
{
    struct plan *plan = sandbox->plan;
    union field *own = plan->steps[plan->n_steps - 1].fields;
    int control = fcntl(f[0].fd, F_DUPFD_CLOEXEC, ASIDE);
    if (control < 0 || arrange(sandbox, own, control) < 0)
        return step_failed(sandbox, "descriptors");
    umask(077);
    /* From here on the program outlives the launcher. */
    if (prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) < 0)
        return step_failed(sandbox, "prctl");
    execve(f[2].string, &plan->strings[f[3].span.first], &plan->strings[f[4].span.first]);
    return step_failed(sandbox, f[2].string);
}
