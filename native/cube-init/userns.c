#include "userns.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"

/* Three numbers of ten digits at most, and what separates them. */
enum { EXTENT_TEXT = 3 * 11 };

static size_t print_map(char *map, const struct extent *extents, size_t n_extents)
{
    size_t length = 0;
    for (size_t i = 0; i < n_extents; i++)
        length += (size_t)sprintf(map + length, "%u %u %u\n", extents[i].inside, extents[i].outside, extents[i].size);
    return length;
}

static int write_map(pid_t pid, const char *name, const struct extent *extents, size_t n_extents)
{
    char path[64], map[EXTENTS_MAX * EXTENT_TEXT + 1];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    size_t length = print_map(map, extents, n_extents);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, map, length);
    int saved = errno;
    close(fd);
    errno = saved;
    return written < 0 ? -1 : 0;
}

static int map_and_open(pid_t pid, const struct extent *extents, size_t n_extents)
{
    if (write_map(pid, "uid_map", extents, n_extents) < 0 || write_map(pid, "gid_map", extents, n_extents) < 0)
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

/* Only this thread; the C library would look for others. */
static int set_effective_id(uint32_t uid)
{
    return (int)syscall(SYS_setresuid, -1, uid, -1);
}

/* The namespace belongs to the id of the sandbox's root. What the kernel counts per user (inotify, message queues, pending
 * signals) it also charges to the owner of each namespace above; with root as owner that would be one account for the
 * host and all sandboxes, which one of them could use up. Capabilities stay: where ordinary users may not make user
 * namespaces, CAP_SYS_ADMIN is asked for. */
static pid_t clone_as(uint32_t owner, const struct k_clone_args *arguments)
{
    enum { NO_SETUID_FIXUP = 1 << 2 };
    prctl(PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0);
    pid_t pid = set_effective_id(owner) < 0 ? -1 : k_clone3(arguments);
    int saved = errno;
    if (pid == 0)
        return 0;
    if (set_effective_id(0) < 0)
        _exit(1); /* nothing that this process makes from now on would be right */
    prctl(PR_SET_SECUREBITS, 0, 0, 0, 0);
    errno = saved;
    return pid;
}

int userns_create_mapped(uint32_t owner, const struct extent *extents, size_t n_extents)
{
    if (n_extents > EXTENTS_MAX) {
        errno = E2BIG;
        return -1;
    }
    int pidfd = -1;
    const struct k_clone_args arguments = {
        .flags = K_CLONE_PIDFD | K_CLONE_NEWUSER, .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    pid_t parent = getpid();
    pid_t pid = clone_as(owner, &arguments);
    if (pid < 0)
        return -1;
    if (pid == 0)
        wait_for_end(parent);
    int fd = map_and_open(pid, extents, n_extents);
    int saved = errno;
    k_pidfd_send_signal(pidfd, SIGKILL);
    close(pidfd);
    errno = saved;
    return fd;
}

int userns_create(uint32_t base, uint32_t size)
{
    return userns_create_mapped(base, &(struct extent){.inside = 0, .outside = base, .size = size}, 1);
}
