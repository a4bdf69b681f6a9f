/* System calls and numbers that are newer than the C libraries, or that live in kernel headers which clash with theirs.
 * Numbers from 424 on are the same on every architecture but alpha. */
#ifndef CUBE_KERNEL_H
#define CUBE_KERNEL_H

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    NR_PIDFD_SEND_SIGNAL = 424,
    NR_OPEN_TREE = 428,
    NR_MOVE_MOUNT = 429,
    NR_FSOPEN = 430,
    NR_FSCONFIG = 431,
    NR_FSMOUNT = 432,
    NR_CLONE3 = 435,
    NR_CLOSE_RANGE = 436,
    NR_OPENAT2 = 437,
    NR_MOUNT_SETATTR = 442,
};

/* Prefixed, because some C libraries define some of the names as macros. */
enum {
    K_AT_EMPTY_PATH = 0x1000,
    K_AT_RECURSIVE = 0x8000,
    K_OPEN_TREE_CLONE = 1,
    K_OPEN_TREE_CLOEXEC = 02000000,
    K_MOVE_MOUNT_F_EMPTY_PATH = 0x4,
    K_MOVE_MOUNT_T_EMPTY_PATH = 0x40,
    K_FSOPEN_CLOEXEC = 1,
    K_FSMOUNT_CLOEXEC = 1,
    K_FSCONFIG_SET_FLAG = 0,
    K_FSCONFIG_SET_STRING = 1,
    K_FSCONFIG_CMD_CREATE = 6,
    K_MOUNT_ATTR_RDONLY = 0x1,
    K_MOUNT_ATTR_NOSUID = 0x2,
    K_MOUNT_ATTR_NODEV = 0x4,
    K_MOUNT_ATTR_NOEXEC = 0x8,
    K_RESOLVE_NO_MAGICLINKS = 0x2,
    K_RESOLVE_NO_SYMLINKS = 0x4,
    K_RESOLVE_BENEATH = 0x8,
    K_RESOLVE_IN_ROOT = 0x10,
};

#define K_CLONE_PIDFD 0x00001000ull
#define K_CLONE_NEWNS 0x00020000ull
#define K_CLONE_NEWCGROUP 0x02000000ull
#define K_CLONE_NEWUTS 0x04000000ull
#define K_CLONE_NEWIPC 0x08000000ull
#define K_CLONE_NEWUSER 0x10000000ull
#define K_CLONE_NEWPID 0x20000000ull
#define K_CLONE_NEWNET 0x40000000ull
#define K_CLONE_INTO_CGROUP 0x200000000ull

struct k_open_how {
    uint64_t flags, mode, resolve;
};

struct k_mount_attr {
    uint64_t attr_set, attr_clr, propagation, userns_fd;
};

struct k_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

struct k_sock_fprog {
    unsigned short length;
    const void *filter;
};

/* Version 3 of the capability interface: two words of 32 capabilities each. */
struct k_cap_header {
    uint32_t version;
    int pid;
};
#define K_CAPABILITY_VERSION 0x20080522u

struct k_cap_data {
    uint32_t effective, permitted, inheritable;
};

static inline int k_openat2(int directory, const char *path, const struct k_open_how *how)
{
    return (int)syscall(NR_OPENAT2, directory, path, how, sizeof *how);
}

static inline int k_open_tree(int directory, const char *path, unsigned flags)
{
    return (int)syscall(NR_OPEN_TREE, directory, path, flags);
}

static inline int k_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
    return (int)syscall(NR_MOVE_MOUNT, from, from_path, to, to_path, flags);
}

static inline int k_fsopen(const char *fstype, unsigned flags)
{
    return (int)syscall(NR_FSOPEN, fstype, flags);
}

static inline int k_fsconfig(int context, unsigned command, const char *key, const void *value, int extra)
{
    return (int)syscall(NR_FSCONFIG, context, command, key, value, extra);
}

static inline int k_fsmount(int context, unsigned flags, unsigned attributes)
{
    return (int)syscall(NR_FSMOUNT, context, flags, attributes);
}

static inline int k_mount_setattr(int directory, const char *path, unsigned flags, const struct k_mount_attr *attributes)
{
    return (int)syscall(NR_MOUNT_SETATTR, directory, path, flags, attributes, sizeof *attributes);
}

/* Like fork(): without a stack of its own the child goes on where the parent is. */
static inline pid_t k_clone3(const struct k_clone_args *arguments)
{
    return (pid_t)syscall(NR_CLONE3, arguments, sizeof *arguments);
}

static inline int k_close_range(unsigned first, unsigned last)
{
    return (int)syscall(NR_CLOSE_RANGE, first, last, 0);
}

static inline int k_pidfd_send_signal(int pidfd, int signal)
{
    return (int)syscall(NR_PIDFD_SEND_SIGNAL, pidfd, signal, NULL, 0);
}

#endif
