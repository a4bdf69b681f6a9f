/* vmm-guard.so: loaded into QEMU ahead of its libraries, so that the memory of a clone can lie on a file that the
 * process can only read.
 *
 * A clone maps the memory file of its template privately: what it writes is its own. QEMU up to 8.1 opens such a file
 * for writing all the same, all versions punch holes into the file itself when the guest gives memory back, and only a
 * block that QEMU takes for shared is left out of a saved state. So QEMU is told that the block is shared, and for
 * this one file
 *   - opening it is opening it to read,
 *   - mapping it is mapping it privately,
 *   - punching a hole succeeds without doing anything: the madvise() that QEMU lets follow gives the pages back.
 * None of this is a barrier. The barrier is the read-only mount of the file; without this library QEMU would not start.
 *
 * No C library is linked: the calls that are replaced here are the system calls themselves. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include "descriptors.h"
#include "kernel.h"
#include "threads.h"

/* C libraries in which these are names for the plain functions. */
#undef open64
#undef mmap64
#undef fallocate64

#define EXPORT __attribute__((visibility("default")))

EXPORT int open64(const char *path, int flags, ...);
EXPORT int __open64_2(const char *path, int flags);
EXPORT void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset);
EXPORT int fallocate64(int fd, int mode, off_t offset, off_t size);
EXPORT int madvise(void *address, size_t size, int advice);
EXPORT int eventfd(unsigned count, int flags);
EXPORT int close(int fd);
EXPORT int ioctl(int fd, unsigned long request, ...);
EXPORT int pthread_create(void *thread, const void *attributes, void *(*run)(void *), void *argument);

/* Where the file is in QEMU's tree; cube.cubelet.runtime.microvm.jail says so, too. */
static const char memory_path[] = "/memory";
static volatile int memory_fd = -1;

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result = kernel(number, a, b, c, d, e, f);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static int is_memory(const char *path)
{
    const char *wanted = memory_path;
    while (*wanted != 0 && *wanted == *path)
        wanted++, path++;
    return *wanted == *path;
}

static int open_file(const char *path, int flags, int mode)
{
    if (!is_memory(path))
        return (int)call(SYS_openat, AT_FDCWD, (long)path, flags, mode, 0, 0);
    int fd = (int)call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    memory_fd = fd;
    return fd;
}

int open64(const char *path, int flags, ...)
{
    int mode = 0;
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, int);
        va_end(rest);
    }
    return open_file(path, flags, mode);
}

/* What a fortified program calls when it gives no mode. */
int __open64_2(const char *path, int flags)
{
    return open_file(path, flags, 0);
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && fd == memory_fd)
        flags = (flags & ~MAP_TYPE) | MAP_PRIVATE | MAP_NORESERVE;
    return (void *)call(SYS_mmap, (long)address, (long)size, protection, flags, fd, offset);
}

int fallocate64(int fd, int mode, off_t offset, off_t size)
{
    if (fd >= 0 && fd == memory_fd && mode & FALLOC_FL_PUNCH_HOLE)
        return 0;
    return (int)call(SYS_fallocate, fd, mode, offset, size, 0, 0);
}

/* A fork needs the memory that QEMU keeps from processes that it would start. */
int madvise(void *address, size_t size, int advice)
{
    if (advice == MADV_DONTFORK)
        return 0;
    return (int)call(SYS_madvise, (long)address, (long)size, advice, 0, 0, 0);
}

/* These do what they always do, and let it be known to whom a fork matters. */
int eventfd(unsigned count, int flags)
{
    int fd = (int)call(SYS_eventfd2, count, flags, 0, 0, 0, 0);
    descriptors_note_event(fd);
    return fd;
}

int close(int fd)
{
    descriptors_note_closed(fd);
    return (int)call(SYS_close, fd, 0, 0, 0, 0, 0);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    long argument = va_arg(rest, long);
    va_end(rest);
    if (request == TUNSETOFFLOAD)
        descriptors_note_offload((uint32_t)argument);
    return (int)call(SYS_ioctl, fd, (long)request, argument, 0, 0, 0);
}

int pthread_create(void *thread, const void *attributes, void *(*run)(void *), void *argument)
{
    /* The C library's own. */
    static make_thread_fn *make;
    if (make == 0)
        make = (make_thread_fn *)dlsym(RTLD_NEXT, "pthread_create");
    return threads_make(make, thread, attributes, run, argument);
}
