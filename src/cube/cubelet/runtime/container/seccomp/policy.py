"""What programs in a sandbox may ask of the kernel, as lists to be read.

At or under Docker's default profile for a container with the default capabilities (its documentation lists the calls
that it leaves out and why). Stricter in these: no 32-bit and x32 entry, no AF_VSOCK, AF_ALG, AF_PACKET and other
rarely reviewed socket families, only three netlink protocols, no TIOCSTI and TIOCLINUX, no ioctls of btrfs, no
io_uring, no personality other than plain Linux, no limits for process 1.

Everything that is not listed fails with EPERM; calls newer than our tables fail with ENOSYS, as an older kernel would
answer.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

ALLOWED = """
  files:       open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv
               pwritev preadv2 pwritev2 lseek truncate ftruncate fallocate fsync fdatasync sync syncfs
               sync_file_range readahead fadvise64 flock fcntl dup dup2 dup3 pipe pipe2 sendfile copy_file_range
               splice tee vmsplice memfd_create memfd_secret cachestat
  names:       access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs getdents getdents64
               getcwd chdir fchdir mkdir mkdirat mknod mknodat rmdir link linkat unlink unlinkat symlink
               symlinkat readlink readlinkat rename renameat renameat2 umask utime utimes futimesat utimensat
               name_to_handle_at chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat chroot
  attributes:  setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
               removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat
  waiting:     select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
               epoll_pwait2 epoll_ctl_old epoll_wait_old eventfd eventfd2 signalfd signalfd4 timerfd_create
               timerfd_settime timerfd_gettime inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
               fanotify_mark
  async:       io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
  memory:      brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 munlock mlockall munlockall
               mseal remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect process_mrelease
               map_shadow_stack
  processes:   fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
               pidfd_send_signal getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address
               set_robust_list get_robust_list futex futex_waitv futex_wake futex_wait futex_requeue rseq prctl
               arch_prctl modify_ldt set_thread_area get_thread_area getrlimit setrlimit getrusage
               times getpriority setpriority ioprio_get ioprio_set restart_syscall ptrace process_vm_readv
               process_vm_writev seccomp getcpu sysinfo uname landlock_create_ruleset landlock_add_rule
               landlock_restrict_self
  scheduling:  sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
               sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
               sched_get_priority_min sched_rr_get_interval
  signals:     rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo
               rt_tgsigqueueinfo rt_sigsuspend sigaltstack pause alarm getitimer setitimer
  time:        time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep timer_create timer_settime
               timer_gettime timer_getoverrun timer_delete adjtimex clock_adjtime
  identity:    getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid
               setresuid setresgid setfsuid setfsgid setgroups capget capset getrandom
  sockets:     socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt
               setsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
  ipc:         shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open
               mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """A test of one argument: ``(argument & mask) == value`` or ``!=``. Only the low 32 bits are looked at, as the
    kernel does for each argument that is tested here."""

    argument: int
    mask: int
    value: int
    equal: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that is allowed when one of ``any_of`` holds (each entry: all its conditions), else fails with
    ``error``."""

    call: str
    any_of: tuple[tuple[Condition, ...], ...]
    error: int = errno.EPERM


_WORD = 0xFFFF_FFFF
#: Every CLONE_NEW* flag of clone(2): namespaces are made by the host alone.
_NEW_NAMESPACES = 0x7E02_0000
_AF_NETLINK = 16
#: Routes and addresses (getifaddrs), socket listing (ss), device events (libudev).
_NETLINK_PROTOCOLS = (0, 4, 15)
#: Unix, IPv4, IPv6.
_SOCKET_FAMILIES = (1, 2, 10)
#: Linux, and Linux without address randomisation (debuggers), and "tell me which".
_PERSONALITIES = (0x0, 0x0004_0000, 0xFFFF_FFFF)
_PROCESS_1 = 1
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
#: The type in an ioctl's number, and that of btrfs, which volumes lie on: there everybody may make subvolumes, which
#: no quota counts, and have the whole file system commit.
_IOCTL_TYPE = 0xFF00
_BTRFS = 0x9400


def _is(argument: int, value: int) -> Condition:
    return Condition(argument, _WORD, value)


CONDITIONAL: tuple[Rule, ...] = (
    Rule("clone", ((Condition(0, _NEW_NAMESPACES, 0),),)),
    # Process 1 is cube-init, whom root could take its descriptors: prlimit asks for equal ids and nothing else.
    Rule("prlimit64", ((Condition(0, _WORD, _PROCESS_1, equal=False),),)),
    Rule("personality", tuple((_is(0, value),) for value in _PERSONALITIES)),
    Rule(
        "socket",
        (
            *((_is(0, family),) for family in _SOCKET_FAMILIES),
            *((_is(0, _AF_NETLINK), _is(2, protocol)) for protocol in _NETLINK_PROTOCOLS),
        ),
        error=errno.EAFNOSUPPORT,
    ),
    Rule(
        "ioctl",
        (
            (
                Condition(1, _WORD, _TIOCSTI, equal=False),
                Condition(1, _WORD, _TIOCLINUX, equal=False),
                Condition(1, _IOCTL_TYPE, _BTRFS, equal=False),
            ),
        ),
    ),
)

#: clone3 hides its flags behind a pointer; with ENOSYS the C library falls back to clone, whose flags can be checked.
NOT_IMPLEMENTED = ("clone3",)


def allowed_calls() -> frozenset[str]:
    """Names that are allowed whatever their arguments."""
    return frozenset(word for word in ALLOWED.split() if not word.endswith(":"))
