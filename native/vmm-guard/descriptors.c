/* QEMU copies descriptors and moves them, so what is to be replaced is known by what it is, not by its number. */
#include "descriptors.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "kernel.h"

enum { MAX_DESCRIPTORS = 1024 /* the limit of the jail */ };

/* The numbers that the process begins with, cube.cubelet.runtime.microvm.command says so, too. */
enum { STDERR = 2, MONITOR = 3, SECOND_MONITOR = 4, CONTROL = 5, LAYER = 7, TAP = 8 };
static const int begun_with[] = {MONITOR, SECOND_MONITOR, CONTROL, LAYER, TAP, STDERR};
enum { BEGUN_WITH = sizeof begun_with / sizeof *begun_with, CONNECTIONS = N_REPLACED - BEGUN_WITH };
/* Connections have the names of the sockets that they were accepted from. They stay open, and neither QEMU nor the
 * guest sees one end and another begin. */
static const char *const connections[CONNECTIONS] = {".monitor", ".control"};

static struct stat originals[N_REPLACED];
static uint8_t is_event[MAX_DESCRIPTORS];
static uint32_t offload;

void descriptors_note_event(int fd)
{
    if (fd >= 0 && fd < MAX_DESCRIPTORS)
        is_event[fd] = 1;
}

void descriptors_note_closed(int fd)
{
    if (fd >= 0 && fd < MAX_DESCRIPTORS)
        is_event[fd] = 0;
}

void descriptors_note_offload(uint32_t features)
{
    offload = features;
}

void descriptors_remember(void)
{
    for (int i = 0; i < BEGUN_WITH; i++)
        kernel2(SYS_fstat, begun_with[i], &originals[i]);
}

static int same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_rdev == b->st_rdev;
}

static int is_given(const struct given *given, int fd)
{
    for (uint32_t i = 0; i < given->count; i++) {
        if (given->fds[i] == fd)
            return 1;
    }
    return 0;
}

/* -- connections -------------------------------------------------------------------------------------------------- */

static int ends_with(const char *name, unsigned size, const char *end)
{
    unsigned length = 0;
    while (end[length] != 0)
        length++;
    while (size > 0 && name[size - 1] == 0)
        size--;
    for (unsigned i = 0; i < length; i++) {
        if (size < length || name[size - length + i] != end[i])
            return 0;
    }
    return 1;
}

/* Which connection a descriptor is; -1 for none. */
static int connection_of(int fd, const struct stat *status)
{
    struct sockaddr_un name;
    const int begins = offsetof(struct sockaddr_un, sun_path);
    int size = sizeof name;
    for (int i = 0; i < BEGUN_WITH; i++) {
        if (same(status, &originals[i]))
            return -1;
    }
    if (!S_ISSOCK(status->st_mode) || kernel3(SYS_getsockname, fd, &name, &size) < 0 || size <= begins)
        return -1;
    for (int i = 0; i < CONNECTIONS; i++) {
        if (ends_with(name.sun_path, (unsigned)(size - begins), connections[i]))
            return i;
    }
    return -1;
}

int descriptors_find_connections(const struct given *given)
{
    int found[CONNECTIONS] = {0};
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        struct stat status;
        if (is_given(given, fd) || kernel2(SYS_fstat, fd, &status) < 0)
            continue;
        const int which = connection_of(fd, &status);
        if (which < 0)
            continue;
        originals[BEGUN_WITH + which] = status;
        found[which]++;
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        if (found[i] != 1)
            return 0;
    }
    return 1;
}

/* -- in a fork ---------------------------------------------------------------------------------------------------- */

/* What a descriptor is to be instead; -1 for one that stays. */
static int instead_of(int fd, const struct given *given)
{
    struct stat found;
    if (is_given(given, fd) || kernel2(SYS_fstat, fd, &found) < 0)
        return -1;
    for (int i = 0; i < N_REPLACED; i++) {
        if (same(&found, &originals[i]))
            return given->fds[i];
    }
    return -1;
}

/* Have every descriptor of an original be what was given for it. */
static long replace_all(const struct given *given)
{
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        const int fresh = instead_of(fd, given);
        const long error = fresh < 0 ? 0 : kernel3(SYS_dup3, fresh, fd, O_CLOEXEC);
        if (error < 0)
            return error;
    }
    return 0;
}

static long never_block(const struct given *given)
{
    long error = 0;
    for (int i = 0; i < N_REPLACED && error >= 0; i++) {
        if (i != NEW_LAYER && i != NEW_STDERR)
            error = kernel3(SYS_fcntl, given->fds[i], F_SETFL, O_NONBLOCK | kernel2(SYS_fcntl, given->fds[i], F_GETFL));
    }
    return error;
}

/* What QEMU has told the interface of the zygote. */
static long like_the_old(int tap)
{
    int header = 0, room = 0;
    long error = kernel3(SYS_ioctl, TAP, TUNGETVNETHDRSZ, &header);
    if (error >= 0)
        error = kernel3(SYS_ioctl, tap, TUNSETVNETHDRSZ, &header);
    if (error >= 0)
        error = kernel3(SYS_ioctl, tap, TUNSETOFFLOAD, offload);
    if (error >= 0 && kernel3(SYS_ioctl, TAP, TUNGETSNDBUF, &room) >= 0)
        error = kernel3(SYS_ioctl, tap, TUNSETSNDBUF, &room);
    return error;
}

static long new_event(int fd)
{
    /* Set, for it may have been: whoever is woken for nothing looks and goes on waiting. */
    const long fresh = kernel2(SYS_eventfd2, 1, O_CLOEXEC | O_NONBLOCK);
    if (fresh < 0)
        return fresh;
    const long error = kernel3(SYS_dup3, fresh, fd, O_CLOEXEC);
    kernel1(SYS_close, fresh);
    return error;
}

static long new_events(void)
{
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        const long error = is_event[fd] ? new_event(fd) : 0;
        if (error < 0)
            return error;
    }
    return 0;
}

long descriptors_replace(const struct given *given)
{
    long error = like_the_old(given->fds[NEW_TAP]);
    if (error >= 0)
        error = never_block(given);
    if (error >= 0)
        error = replace_all(given);
    descriptors_close(given);
    return error < 0 ? error : new_events();
}

void descriptors_close(const struct given *given)
{
    for (uint32_t i = 0; i < given->count; i++)
        kernel1(SYS_close, given->fds[i]);
}
