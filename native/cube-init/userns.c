#include "userns.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernel.h"

static int write_map(pid_t pid, const char *name, uint32_t base, uint32_t size)
{
    char path[64], map[48];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int length = snprintf(map, sizeof map, "0 %u %u\n", base, size);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, map, (size_t)length);
    int saved = errno;
    close(fd);
    errno = saved;
    return written < 0 ? -1 : 0;
}

static int map_and_open(pid_t pid, uint32_t base, uint32_t size)
{
    if (write_map(pid, "uid_map", base, size) < 0 || write_map(pid, "gid_map", base, size) < 0)
        return -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The namespace is born with a process, which only waits to be killed. */
static void wait_for_end(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    /* Else the parent died before it could be said. */
    while (getppid() == parent)
        pause();
    _exit(1);
}

int userns_create(uint32_t base, uint32_t size)
{
    int pidfd = -1;
    const struct k_clone_args arguments = {
        .flags = K_CLONE_PIDFD | K_CLONE_NEWUSER, .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    pid_t parent = getpid();
    pid_t pid = k_clone3(&arguments);
    if (pid < 0)
        return -1;
    if (pid == 0)
        wait_for_end(parent);
    int fd = map_and_open(pid, base, size);
    int saved = errno;
    k_pidfd_send_signal(pidfd, SIGKILL);
    close(pidfd);
    errno = saved;
    return fd;
}
