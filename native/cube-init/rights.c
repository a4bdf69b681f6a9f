#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernel.h"
#include "steps.h"

enum { CAPABILITIES = 64, SECCOMP_SET_FILTER = 1, JOIN_SESSION_KEYRING = 1, FILTER_BYTES = 8, MAX_FILTER = 4096 };

int step_enter_user(struct sandbox *sandbox, const union field *f)
{
    /* The groups of the host go first: inside they would be unknown numbers that still open doors outside. */
    if (setgroups(0, NULL) < 0)
        return step_failed(sandbox, "setgroups");
    if (setns(f[0].fd, (int)K_CLONE_NEWUSER) < 0)
        return step_failed(sandbox, "setns");
    if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
        return step_failed(sandbox, "setresuid");
    /* Away from the session keyring of whoever started the service. ENOSYS: a kernel without keys. */
    if (syscall(SYS_keyctl, JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
        return step_failed(sandbox, "keyctl");
    return 0;
}

static int cut_bounding_set(uint64_t mask)
{
    for (int capability = 0; capability < CAPABILITIES; capability++) {
        if (mask >> capability & 1 || prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0)
            continue;
        /* EINVAL: this kernel has no more of them. */
        return errno == EINVAL ? 0 : -1;
    }
    return 0;
}

int step_capabilities(struct sandbox *sandbox, const union field *f)
{
    if (cut_bounding_set(f[0].u64) < 0)
        return step_failed(sandbox, "bounding set");
    struct k_cap_header header = {.version = K_CAPABILITY_VERSION};
    struct k_cap_data data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return step_failed(sandbox, "capget");
    for (int word = 0; word < 2; word++) {
        data[word].permitted &= (uint32_t)(f[0].u64 >> 32 * word);
        data[word].effective = data[word].permitted;
        data[word].inheritable = 0; /* and with it the ambient set */
    }
    return syscall(SYS_capset, &header, data) < 0 ? step_failed(sandbox, "capset") : 0;
}

int step_no_new_privs(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox, (void)f;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int step_seccomp(struct sandbox *sandbox, const union field *f)
{
    (void)sandbox;
    const struct bytes filter = f[0].bytes;
    if (filter.size % FILTER_BYTES != 0 || filter.size / FILTER_BYTES > MAX_FILTER) {
        errno = EINVAL;
        return -1;
    }
    const struct k_sock_fprog program = {
        .length = (unsigned short)(filter.size / FILTER_BYTES), .filter = filter.data};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_FILTER, 0, &program);
}
