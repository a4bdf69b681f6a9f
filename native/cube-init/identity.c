/* What makes this machine, booted or copied, one of its own. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "kernel.h"

enum { NETWORK = 1, RESET_CONNECTIONS = 2 }; /* flags of IDENTITY */
enum { SEED_MIN = 64, SEED_MAX = 512, FREEZE_TRIES = 2000, FREEZE_MICROSECONDS = 1000 };

struct identity {
    uint64_t generation, nanoseconds;
    uint32_t flags;
    struct bytes seed, hostname, machine_id, resolv_conf;
    struct guest_address network;
};

static int set_time(uint64_t nanoseconds)
{
    const struct timespec now = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
    return clock_settime(CLOCK_REALTIME, &now) ? errno : 0;
}

/* linux/random.h, which not every C library finds. */
#define ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RESEED _IO('R', 0x07)

/* Credited, and taken up at once: what any process asks for from now on depends on it. */
static int reseed(struct bytes seed)
{
    struct {
        int bits, size;
        uint8_t bytes[SEED_MAX];
    } pool = {.bits = (int)seed.size * 8, .size = (int)seed.size};
    memcpy(pool.bytes, seed.data, seed.size);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    int error = fd < 0 || ioctl(fd, ADD_ENTROPY, &pool) || ioctl(fd, RESEED) ? errno : 0;
    close(fd);
    explicit_bzero(&pool, sizeof pool);
    return error;
}

/* A file of /etc, replaced: whatever is there under this name, the sandbox's own links included, is covered. */
static int write_file(int etc, const char *name, const char *text, size_t size)
{
    unlinkat(etc, name, 0);
    int fd = openat(etc, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return errno;
    int error = write(fd, text, size) == (ssize_t)size ? 0 : errno;
    close(fd);
    return error;
}

/* Over what is there, which is much cheaper than another file: 0 or an errno, and ENOENT when it is not as we make it. */
static int overwrite(int fd, const char *text, size_t size)
{
    char there[4096];
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink != 1 || st.st_uid != 0 || (st.st_mode & 07777) != 0644)
        return ENOENT;
    bool same_size = (size_t)st.st_size == size;
    if (same_size && size <= sizeof there && pread(fd, there, size, 0) == (ssize_t)size && memcmp(there, text, size) == 0)
        return 0;
    if (pwrite(fd, text, size, 0) != (ssize_t)size || (!same_size && ftruncate(fd, (off_t)size)))
        return errno;
    return 0;
}

static int put_file(int etc, const char *name, const char *text, size_t size)
{
    int fd = openat(etc, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int error = fd < 0 ? ENOENT : overwrite(fd, text, size);
    close(fd);
    return error == ENOENT ? write_file(etc, name, text, size) : error;
}

static int write_names(int etc, const struct identity *i)
{
    char text[1024], address[16] = "127.0.1.1";
    const uint8_t *a = (const uint8_t *)&i->network.address;
    if (i->flags & NETWORK)
        snprintf(address, sizeof address, "%u.%u.%u.%u", a[0], a[1], a[2], a[3]);
    int n = snprintf(text, sizeof text, "127.0.0.1 localhost\n%s %.*s\n", address, (int)i->hostname.size, i->hostname.data);
    int error = put_file(etc, "hosts", text, (size_t)n);
    n = snprintf(text, sizeof text, "%.*s\n", (int)i->hostname.size, i->hostname.data);
    if (!error)
        error = put_file(etc, "hostname", text, (size_t)n);
    n = snprintf(text, sizeof text, "%.*s\n", (int)i->machine_id.size, i->machine_id.data);
    if (!error)
        error = put_file(etc, "machine-id", text, (size_t)n);
    return error ? error : put_file(etc, "resolv.conf", (const char *)i->resolv_conf.data, i->resolv_conf.size);
}

static int set_names(const struct identity *i)
{
    const struct k_open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS};
    if (sethostname((const char *)i->hostname.data, i->hostname.size))
        return errno;
    int root = open(GUEST_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    mkdirat(root, "etc", 0755);
    int etc = root < 0 ? -1 : k_openat2(root, "etc", &how);
    int error = etc < 0 ? errno : write_names(etc, i);
    close(etc);
    close(root);
    return error;
}

/* In place: programs may have it mapped. A machine that goes on as the only one of its memory keeps its number, so that
 * what its programs have seeded on purpose stays as it is. */
static int tell_generation(uint64_t generation, bool copied)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%020llu\n", (unsigned long long)generation);
    int fd = open(GUEST_GENERATION "/generation", O_WRONLY | O_CREAT | (copied ? 0 : O_EXCL) | O_CLOEXEC, 0444);
    if (fd < 0 && errno == EEXIST)
        return 0;
    int error = fd < 0 || pwrite(fd, text, (size_t)n, 0) != n ? errno : 0;
    close(fd);
    return error;
}

static bool frozen(void)
{
    char events[128];
    int fd = open(GUEST_GROUP "/cgroup.events", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, events, sizeof events - 1);
    close(fd);
    events[n > 0 ? n : 0] = 0;
    return strstr(events, "frozen 1") != NULL;
}

static int stop(bool stopped)
{
    if (guest_write(GUEST_GROUP "/cgroup.freeze", stopped ? "1" : "0"))
        return errno;
    for (int i = 0; stopped && !frozen(); i++) {
        if (i == FREEZE_TRIES) {
            guest_write(GUEST_GROUP "/cgroup.freeze", "0");
            return ETIMEDOUT;
        }
        usleep(FREEZE_MICROSECONDS);
    }
    return 0;
}

static int parse(struct identity *i, struct reader *body)
{
    i->generation = get_u64(body);
    i->flags = get_u32(body);
    i->nanoseconds = get_u64(body);
    i->seed = get_bytes(body);
    struct bytes address = get_bytes(body);
    i->network.prefix = get_u32(body);
    struct bytes gateway = get_bytes(body);
    i->network.mtu = get_u32(body);
    i->hostname = get_bytes(body);
    i->machine_id = get_bytes(body);
    i->resolv_conf = get_bytes(body);
    if (!get_end(body) || address.size != 4 || gateway.size != 4 || i->generation == 0 || i->hostname.size > 64 ||
        i->machine_id.size > 64 || i->seed.size < SEED_MIN || i->seed.size > SEED_MAX)
        return EPROTO;
    memcpy(&i->network.address, address.data, 4);
    memcpy(&i->network.gateway, gateway.data, 4);
    return 0;
}

static int identify(struct reader *body)
{
    struct identity i;
    int error = parse(&i, body);
    if (!error)
        error = reseed(i.seed);
    if (!error)
        error = set_time(i.nanoseconds);
    if (!error && (i.flags & RESET_CONNECTIONS) && network_used())
        error = sockets_reset();
    if (!error && (i.flags & NETWORK))
        error = network_configure(&i.network);
    if (!error)
        error = set_names(&i);
    if (!error)
        error = tell_generation(i.generation, i.flags & RESET_CONNECTIONS);
    return error ? error : stop(false);
}

static int set_clock(struct reader *body)
{
    uint64_t nanoseconds = get_u64(body);
    return get_end(body) ? set_time(nanoseconds) : EPROTO;
}

static int freeze(struct reader *body)
{
    enum { THAW, FREEZE, FREEZE_AND_WRITE_OUT };
    uint32_t how = get_u32(body);
    if (!get_end(body) || how > FREEZE_AND_WRITE_OUT)
        return EPROTO;
    int error = stop(how != THAW);
    /* Nothing can make anything dirty meanwhile, so the disk is as whole as if it had been unmounted. */
    if (!error && how == FREEZE_AND_WRITE_OUT)
        sync();
    return error;
}

const struct machine guest_machine = {.identify = identify, .set_clock = set_clock, .freeze = freeze};
