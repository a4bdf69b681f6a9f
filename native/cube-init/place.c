#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel.h"
#include "steps.h"

enum { PROC_MAGIC = 0x9fa0 };

int step_join_cgroup(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox;
    /* "0" is the writer itself, in whatever pid namespace it is. */
    return write(f[0].fd, "0", 1) < 0 ? -1 : 0;
}

int step_clone_into_cgroup(struct sandbox *sandbox, const union field *f)
{
    /* The launcher has seen to it: this process was born there. */
    (void)sandbox, (void)f;
    return 0;
}

int step_share_pids(struct sandbox *sandbox, const union field *f)
{
    /* The launcher has seen to it. */
    (void)sandbox, (void)f;
    return 0;
}

int step_enter_net(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox;
    return setns(f[0].fd, (int)K_CLONE_NEWNET);
}

int step_new_cgroupns(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox, (void)f;
    return unshare((int)K_CLONE_NEWCGROUP);
}

int step_new_net(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox, (void)f;
    return unshare((int)K_CLONE_NEWNET);
}

int step_hostname(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox;
    return sethostname(f[0].string, strlen(f[0].string));
}

/* Write a file of /proc, and surely of proc: after the pivot the path is the sandbox's. */
static int write_proc(struct sandbox *sandbox, const char *directory, const char *path, const void *data, size_t size)
{
    const struct k_open_how base = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = K_RESOLVE_NO_MAGICLINKS | K_RESOLVE_NO_SYMLINKS};
    const struct k_open_how below = {
        .flags = O_WRONLY | O_CLOEXEC, .resolve = K_RESOLVE_BENEATH | K_RESOLVE_NO_MAGICLINKS};
    struct statfs statfs;
    int root = k_openat2(AT_FDCWD, directory, &base);
    if (root < 0 || fstatfs(root, &statfs) < 0)
        return step_failed(sandbox, directory);
    if (statfs.f_type != PROC_MAGIC) {
        errno = ENODEV;
        return step_failed(sandbox, directory);
    }
    int file = k_openat2(root, path, &below);
    if (file < 0)
        return -1;
    /* The kernel takes such a value whole or not at all. */
    return write(file, data, size) < 0 ? -1 : 0;
}

int step_sysctl(struct sandbox *sandbox, const union field *f)
{
    return write_proc(sandbox, "/proc/sys", f[0].string, f[1].bytes.data, f[1].bytes.size);
}

int step_oom_score(struct sandbox *sandbox, const union field *f)
{
    char value[16];
    int size = snprintf(value, sizeof value, "%d", f[0].i32);
    int result = write_proc(sandbox, "/proc", "self/oom_score_adj", value, (size_t)size);
    /* Lowering needs CAP_SYS_RESOURCE, which a service that is itself in a container may lack; a sandbox runs without. */
    return result < 0 && errno == EACCES && f[0].i32 < 0 ? 0 : result;
}

int step_rlimit(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox;
    const struct rlimit limit = {.rlim_cur = f[1].u64, .rlim_max = f[2].u64};
    return setrlimit((int)f[0].u32, &limit);
}
