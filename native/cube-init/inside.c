/* Process 1 of the sandbox: in a process namespace and a tree of mounts of its own, and there root with every right, for
 * the kernel is its own. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "children.h"
#include "guest.h"
#include "kernel.h"
#include "serve.h"

enum { PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC };

/* A directory of the image, made when it lacks it. A link in its place is the image's own affair: nothing is outside. */
static void mount_at(const char *what, const char *type, const char *target, unsigned long flags, const char *options)
{
    if (mkdir(target, 0755) && errno != EEXIST)
        guest_fail(target);
    if (mount(what, target, type, flags, options))
        guest_fail(target);
}

static void link_at(const char *content, const char *path)
{
    if (symlink(content, path) && errno != EEXIST)
        guest_fail(path);
}

static void mount_devices(void)
{
    mount_at("dev", "devtmpfs", "/dev", MS_NOSUID, NULL);
    mount_at("devpts", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666,gid=5");
    mount_at("shm", "tmpfs", "/dev/shm", PLAIN, "mode=1777");
    mount_at("mqueue", "mqueue", "/dev/mqueue", PLAIN, NULL);
    unlink("/dev/ptmx");
    link_at("pts/ptmx", "/dev/ptmx");
    link_at("/proc/self/fd", "/dev/fd");
    link_at("/proc/self/fd/0", "/dev/stdin");
    link_at("/proc/self/fd/1", "/dev/stdout");
    link_at("/proc/self/fd/2", "/dev/stderr");
}

/* The program that is running shows as sudo. Before the old root goes out of sight. */
static void bind_sudo(const struct guest_options *options)
{
    static const char target[] = GUEST_ROOT "/usr/bin/sudo";
    if (options->n_sudo == 0)
        return;
    int fd = open(target, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0755);
    close(fd);
    if (fd < 0 || mount("/init", target, NULL, MS_BIND, NULL))
        guest_fail(target);
}

static void bind_generation(void)
{
    mkdir(GUEST_ROOT "/run", 0755);
    mkdir(GUEST_ROOT "/run/cube", 0755);
    if (mount(GUEST_GENERATION, GUEST_ROOT "/run/cube", NULL, MS_BIND, NULL) ||
        mount(NULL, GUEST_ROOT "/run/cube", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | PLAIN, NULL))
        guest_fail("showing the generation");
}

static void change_root(void)
{
    if (chdir(GUEST_ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
        guest_fail("changing the root");
}

static void mount_inside(const struct guest_options *options)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        guest_fail("private mounts");
    bind_sudo(options);
    bind_generation();
    change_root();
    mount_at("proc", "proc", "/proc", PLAIN, NULL);
    mount_at("sysfs", "sysfs", "/sys", PLAIN, NULL);
    mount_at("cgroup2", "cgroup2", "/sys/fs/cgroup", PLAIN, NULL);
    mount_devices();
}

static void limit(int kind, uint64_t value)
{
    const struct rlimit limits = {value, value};
    setrlimit(kind, &limits);
}

static void take_standard_streams(void)
{
    int null = open("/dev/null", O_RDWR | O_NOCTTY);
    if (null < 0)
        guest_fail("/dev/null");
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
}

static _Noreturn void run(const struct guest_options *options, int control)
{
    unshare((int)K_CLONE_NEWCGROUP);
    mount_inside(options);
    setsid();
    close_others(control, -1);
    take_standard_streams();
    limit(RLIMIT_CORE, 0);
    if (options->open_files)
        limit(RLIMIT_NOFILE, options->open_files);
    guest_write("/proc/self/oom_score_adj", "-999");
    const struct serve_config config = {
        .control_fd = control, .listen_fd = -1, .sudo_uids = options->sudo_uids, .n_sudo = options->n_sudo};
    _exit(serve(&config));
}

int guest_start_inside(const struct guest_options *options)
{
    int pair[2], group = open(GUEST_GROUP, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (group < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        guest_fail("the control socket");
    const struct k_clone_args arguments = {
        .flags = K_CLONE_NEWPID | K_CLONE_NEWNS | K_CLONE_INTO_CGROUP, .cgroup = (uint64_t)group, .exit_signal = SIGCHLD};
    pid_t pid = k_clone3(&arguments);
    if (pid < 0)
        guest_fail("starting process 1");
    if (pid == 0)
        run(options, pair[1]);
    close(pair[1]);
    close(group);
    return pair[0];
}
