/* What QEMU's filter refuses for a machine that is started by itself, with elevateprivileges=deny and spawn=deny, and
 * whatever reaches another process: forks of one zygote are in the same namespaces. */
#include "confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "kernel.h"

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
enum { CALL_PIDFD_OPEN = 434, CALL_PIDFD_GETFD = 438, CALL_PIDFD_SEND_SIGNAL = 424, CALL_PROCESS_MADVISE = 440 };

static const uint16_t refused[] = {
    SYS_fork,         SYS_vfork,        SYS_execve,           SYS_execveat,
    SYS_setuid,       SYS_setgid,       SYS_setreuid,         SYS_setregid,
    SYS_setresuid,    SYS_setresgid,    SYS_setfsuid,         SYS_setfsgid,
    SYS_setgroups,    SYS_capset,       SYS_setpgid,          SYS_setsid,
    SYS_kill,         SYS_tkill,        SYS_rt_sigqueueinfo,  SYS_rt_tgsigqueueinfo,
    SYS_ptrace,       SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
    SYS_setpriority,  SYS_ioprio_set,       SYS_sched_setparam,
    SYS_sched_setscheduler, SYS_sched_setattr, SYS_sched_setaffinity,
    SYS_shmget,       SYS_shmat,        SYS_shmctl,           SYS_semget,
    SYS_semop,        SYS_semctl,       SYS_semtimedop,       SYS_msgget,
    SYS_msgsnd,       SYS_msgrcv,       SYS_msgctl,           SYS_mq_open,
    SYS_mq_unlink,    SYS_socket,       SYS_bind,             SYS_connect,
    CALL_PIDFD_OPEN,  CALL_PIDFD_GETFD,     CALL_PIDFD_SEND_SIGNAL,
    CALL_PROCESS_MADVISE,
};
enum { REFUSED = sizeof refused / sizeof *refused };

#define LOAD(field) (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define UNLESS_SET(bits, skip) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, skip)
#define END(action) (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, action)
#define REFUSE(error) END(SECCOMP_RET_ERRNO | (error))

long confine(uint32_t process)
{
    static struct sock_filter filter[2 * REFUSED + 24];
    unsigned n = 0;
    filter[n++] = LOAD(arch);
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    filter[n++] = END(SECCOMP_RET_KILL_PROCESS);
    filter[n++] = LOAD(nr);
    for (unsigned i = 0; i < REFUSED; i++) {
        filter[n++] = UNLESS(refused[i], 1);
        filter[n++] = REFUSE(EPERM);
    }
    filter[n++] = UNLESS(SYS_clone3, 1);
    filter[n++] = REFUSE(ENOSYS);
    /* Threads. */
    filter[n++] = UNLESS(SYS_clone, 4);
    filter[n++] = LOAD(args[0]);
    filter[n++] = UNLESS_SET(CLONE_THREAD, 1);
    filter[n++] = END(SECCOMP_RET_ALLOW);
    filter[n++] = REFUSE(EPERM);
    /* Its own threads, which it signals by their number. */
    filter[n++] = UNLESS(SYS_tgkill, 4);
    filter[n++] = LOAD(args[0]);
    filter[n++] = UNLESS(process, 1);
    filter[n++] = END(SECCOMP_RET_ALLOW);
    filter[n++] = REFUSE(EPERM);
    filter[n++] = END(SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {.len = (unsigned short)n, .filter = filter};
    return kernel3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
