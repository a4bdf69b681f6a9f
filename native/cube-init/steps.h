/* What process 1 does with itself before it serves: one function per step of docs/cube-init.md.
 *
 * Every step returns 0, or -1 with errno; then the sandbox is not started and the process ends, so nothing is undone.
 * Steps leave their descriptors open: the last step closes all of them in one call, and so does the end of the process.
 */
#ifndef CUBE_STEPS_H
#define CUBE_STEPS_H

#include <stdbool.h>

#include "plan.h"

/* A sandbox that is being put together. */
struct sandbox {
    struct plan *plan;
    struct message *message; /* what the plan refers to */
    int root;            /* directory that becomes /, -1 while there is none */
    uint32_t uid, gid;   /* its owner, who also gets what is made on the way to a target */
    const char *staging; /* path of it on the host */
    bool pivoted;        /* the host's tree is gone */
    char detail[256];    /* what failed inside a step, for the log */
};

struct operation {
    const char *fields; /* one letter per field, see plan.c */
    int (*run)(struct sandbox *sandbox, const union field *f);
};

/* Say what failed; returns -1 and keeps errno. */
int step_failed(struct sandbox *sandbox, const char *what);

/* Carry out the plan; returns an exit status, normally never. */
int sandbox_start(struct plan *plan, struct message *message);

/* mount.c */
int step_attach_host(struct sandbox *sandbox, const union field *f);
int step_move_in(struct sandbox *sandbox, const union field *f);
int step_overlay(struct sandbox *sandbox, const union field *f);
int step_staging(struct sandbox *sandbox, const union field *f);
int step_mount(struct sandbox *sandbox, const union field *f);
int step_bind(struct sandbox *sandbox, const union field *f);
int step_mask(struct sandbox *sandbox, const union field *f);
int step_read_only(struct sandbox *sandbox, const union field *f);
int step_pivot(struct sandbox *sandbox, const union field *f);

/* tree.c */
int step_mknod(struct sandbox *sandbox, const union field *f);
int step_symlink(struct sandbox *sandbox, const union field *f);
int step_directory(struct sandbox *sandbox, const union field *f);
int step_file(struct sandbox *sandbox, const union field *f);

/* place.c: where it runs */
int step_join_cgroup(struct sandbox *sandbox, const union field *f);
int step_clone_into_cgroup(struct sandbox *sandbox, const union field *f);
int step_enter_net(struct sandbox *sandbox, const union field *f);
int step_new_cgroupns(struct sandbox *sandbox, const union field *f);
int step_share_pids(struct sandbox *sandbox, const union field *f);
int step_new_net(struct sandbox *sandbox, const union field *f);
int step_hostname(struct sandbox *sandbox, const union field *f);
int step_sysctl(struct sandbox *sandbox, const union field *f);
int step_oom_score(struct sandbox *sandbox, const union field *f);
int step_rlimit(struct sandbox *sandbox, const union field *f);

/* rights.c: what it may do */
int step_enter_user(struct sandbox *sandbox, const union field *f);
int step_capabilities(struct sandbox *sandbox, const union field *f);
int step_no_new_privs(struct sandbox *sandbox, const union field *f);
int step_seccomp(struct sandbox *sandbox, const union field *f);

/* execute.c */
int step_execute(struct sandbox *sandbox, const union field *f);

/* steps.c */
int step_park(struct sandbox *sandbox, const union field *f);
int step_serve(struct sandbox *sandbox, const union field *f);

#endif
