#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN_FILES = 65536 };

int guest_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, text, strlen(text));
    int saved = errno;
    close(fd);
    errno = saved;
    return written < 0 ? -1 : 0;
}

bool guest_read(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    close(fd);
    if (n < 0)
        return false;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    return true;
}

static _Noreturn void turn_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}

/* Into the kernel's log, as urgent, so that it is shown on whatever console there is. */
_Noreturn void guest_fail(const char *what)
{
    char line[256];
    snprintf(line, sizeof line, "<0>cube-init: %s: %s\n", what, strerror(errno));
    guest_write("/dev/kmsg", line);
    turn_off();
}

static void mount_kernel_files(void)
{
    enum { PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC };
    if (mount("proc", "/proc", "proc", PLAIN, NULL) || mount("sysfs", "/sys", "sysfs", PLAIN, NULL) ||
        mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, NULL))
        guest_fail("mounting files of the kernel");
}

/* The kernel gives its first program the console, or, when that is not there yet, nothing at all. */
static void open_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    close(fd);
}

/* Everything in the sandbox is in one group, which can be stopped before the machine is copied. */
static void make_group(const struct guest_options *options)
{
    char limit[24];
    if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) ||
        guest_write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids") || mkdir(GUEST_GROUP, 0755))
        guest_fail("making the control group");
    snprintf(limit, sizeof limit, "%llu", (unsigned long long)options->pids);
    if (options->pids && guest_write(GUEST_GROUP "/pids.max", limit))
        guest_fail("limiting processes");
}

/* What a sandbox may do without rights in a container, it may do here. */
static void set_kernel_parameters(void)
{
    guest_write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    guest_write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    guest_write("/proc/sys/kernel/printk", "1");
}

static void become_relay(void)
{
    const struct rlimit files = {OPEN_FILES, OPEN_FILES};
    setrlimit(RLIMIT_NOFILE, &files);
    guest_write("/proc/self/oom_score_adj", "-1000");
    prctl(PR_SET_DUMPABLE, 0);
}

_Noreturn void guest_main(void)
{
    struct guest_options options = {0};
    umask(022);
    mount_kernel_files();
    open_standard_streams();
    guest_read_options(&options);
    guest_load_modules();
    make_group(&options);
    guest_mount_root();
    set_kernel_parameters();
    if (network_up())
        guest_fail("the network interfaces");
    int control = guest_start_inside(&options);
    become_relay();
    const struct relay_config config = {
        .port = guest_open_port(GUEST_PORT), .listener = -1, .control = control, .machine = &guest_machine};
    relay(&config);
    turn_off();
}
