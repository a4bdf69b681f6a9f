#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel.h"
#include "steps.h"
#include "tree.h"

/* Put a detached mount onto an open target. */
static int attach(struct sandbox *sandbox, int mount, int target)
{
    const unsigned empty = K_MOVE_MOUNT_F_EMPTY_PATH | K_MOVE_MOUNT_T_EMPTY_PATH;
    return k_move_mount(mount, "", target, "", empty) < 0 ? step_failed(sandbox, "move_mount") : 0;
}

/* Paths of the host mean nothing once its tree is gone; a path given then would be the sandbox's. */
static int need_host(const struct sandbox *sandbox)
{
    if (!sandbox->pivoted)
        return 0;
    errno = EINVAL;
    return -1;
}

int step_attach_host(struct sandbox *sandbox, const union field *f)
{
    if (need_host(sandbox) < 0)
        return -1;
    return k_move_mount(f[0].fd, "", AT_FDCWD, f[1].string, K_MOVE_MOUNT_F_EMPTY_PATH);
}

/* Move a mount of the host's tree, with all below it, from where an earlier step has put it. */
int step_move_in(struct sandbox *sandbox, const union field *f)
{
    if (need_host(sandbox) < 0)
        return -1;
    int mount = k_open_tree(AT_FDCWD, f[0].string, K_OPEN_TREE_CLOEXEC);
    if (mount < 0)
        return step_failed(sandbox, "open_tree");
    int target = tree_target(sandbox, f[1].string, true);
    return target < 0 ? -1 : attach(sandbox, mount, target);
}

/* Take what is at the staging directory now as the new root. */
static int open_root(struct sandbox *sandbox)
{
    struct stat stat;
    sandbox->root = open(sandbox->staging, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (sandbox->root < 0 || fstat(sandbox->root, &stat) < 0)
        return -1;
    sandbox->uid = stat.st_uid;
    sandbox->gid = stat.st_gid;
    return 0;
}

int step_staging(struct sandbox *sandbox, const union field *f)
{
    sandbox->staging = f[0].string;
    return need_host(sandbox) < 0 ? -1 : open_root(sandbox);
}

/* The file system's own words about a failure stand in its log, one line for each read. */
static int context_failed(struct sandbox *sandbox, int context, const char *what)
{
    int saved = errno;
    char log[160];
    ssize_t size = read(context, log, sizeof log - 1);
    log[size > 0 ? size : 0] = 0;
    log[strcspn(log, "\n")] = 0;
    snprintf(sandbox->detail, sizeof sandbox->detail, "%.64s%s%s", what, *log ? ": " : "", log);
    errno = saved;
    return -1;
}

/* An empty value stands for a flag. */
static int configure(struct sandbox *sandbox, int context, const char *key, const char *value)
{
    unsigned command = *value ? K_FSCONFIG_SET_STRING : K_FSCONFIG_SET_FLAG;
    if (k_fsconfig(context, command, key, *value ? value : NULL, 0) < 0)
        return context_failed(sandbox, context, key);
    return 0;
}

/* A file system to configure, with its own name as the source that mount(8) and df(1) show. */
static int open_context(struct sandbox *sandbox, const char *fstype)
{
    int context = k_fsopen(fstype, K_FSOPEN_CLOEXEC);
    if (context < 0)
        return step_failed(sandbox, "fsopen");
    return configure(sandbox, context, "source", fstype) < 0 ? -1 : context;
}

/* A detached mount of a configured file system. */
static int create(struct sandbox *sandbox, int context, unsigned attributes)
{
    if (k_fsconfig(context, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return context_failed(sandbox, context, "create");
    int mount = k_fsmount(context, K_FSMOUNT_CLOEXEC, attributes);
    return mount < 0 ? context_failed(sandbox, context, "fsmount") : mount;
}

/* `options` as in /proc/mounts: comma separated, "key=value" or "flag". */
static int configure_options(struct sandbox *sandbox, int context, char *options)
{
    char *rest = options;
    for (char *option = strsep(&rest, ","); option != NULL; option = strsep(&rest, ",")) {
        if (*option == 0)
            continue;
        char *value = option;
        const char *key = strsep(&value, "=");
        if (configure(sandbox, context, key, value == NULL ? "" : value) < 0)
            return -1;
    }
    return 0;
}

int step_overlay(struct sandbox *sandbox, const union field *f)
{
    if (need_host(sandbox) < 0 || sandbox->staging == NULL)
        return errno = EINVAL, -1;
    int context = open_context(sandbox, "overlay");
    if (context < 0)
        return -1;
    const char *directories[][2] = {
        {"lowerdir", f[0].string}, {"upperdir", f[1].string}, {"workdir", f[2].string}};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
        if (*directories[i][1] && configure(sandbox, context, directories[i][0], directories[i][1]) < 0)
            return -1;
    if (configure_options(sandbox, context, f[3].string) < 0)
        return -1;
    /* Without device nodes: those of an image would be those of the host. */
    int mount = create(sandbox, context, K_MOUNT_ATTR_NODEV);
    if (mount < 0 || attach(sandbox, mount, sandbox->root) < 0)
        return -1;
    return open_root(sandbox);
}

int step_mount(struct sandbox *sandbox, const union field *f)
{
    int context = open_context(sandbox, f[0].string);
    if (context < 0)
        return -1;
    char *const *pairs = &sandbox->plan->strings[f[3].span.first];
    for (uint32_t i = 0; i < f[3].span.count; i++)
        if (configure(sandbox, context, pairs[2 * i], pairs[2 * i + 1]) < 0)
            return -1;
    int mount = create(sandbox, context, f[2].u32);
    int target = mount < 0 ? -1 : tree_target(sandbox, f[1].string, true);
    return target < 0 ? -1 : attach(sandbox, mount, target);
}

/* A detached copy of the mount, or of the whole tree of mounts, at an open file. */
static int copy_mount(struct sandbox *sandbox, int file, unsigned recursive, uint64_t attributes)
{
    const unsigned clone = K_OPEN_TREE_CLONE | K_OPEN_TREE_CLOEXEC | K_AT_EMPTY_PATH;
    int mount = k_open_tree(file, "", clone | recursive);
    if (mount < 0)
        return step_failed(sandbox, "open_tree");
    const struct k_mount_attr change = {.attr_set = attributes};
    if (attributes != 0 && k_mount_setattr(mount, "", K_AT_EMPTY_PATH | recursive, &change) < 0)
        return step_failed(sandbox, "mount_setattr");
    return mount;
}

int step_bind(struct sandbox *sandbox, const union field *f)
{
    int source = need_host(sandbox) < 0 ? -1 : open(f[0].string, O_PATH | O_CLOEXEC);
    struct stat stat;
    if (source < 0 || fstat(source, &stat) < 0)
        return step_failed(sandbox, "source");
    int mount = copy_mount(sandbox, source, f[3].u32 ? K_AT_RECURSIVE : 0, f[2].u32);
    int target = mount < 0 ? -1 : tree_target(sandbox, f[1].string, S_ISDIR(stat.st_mode));
    return target < 0 ? -1 : attach(sandbox, mount, target);
}

/* An empty directory that nothing can be put into. */
static int empty_directory(struct sandbox *sandbox)
{
    int context = open_context(sandbox, "tmpfs");
    if (context < 0)
        return -1;
    if (configure(sandbox, context, "size", "0") < 0 || configure(sandbox, context, "mode", "0555") < 0)
        return -1;
    return create(
        sandbox, context, K_MOUNT_ATTR_RDONLY | K_MOUNT_ATTR_NOSUID | K_MOUNT_ATTR_NODEV | K_MOUNT_ATTR_NOEXEC);
}

static bool is_null_device(int file)
{
    struct stat stat;
    return file >= 0 && fstat(file, &stat) == 0 && S_ISCHR(stat.st_mode) && stat.st_rdev == makedev(1, 3);
}

/* The sandbox's own /dev/null where there is one, else the host's, of which a watch inside would tell who uses it outside.
 * And surely the device: an image, or after the pivot the sandbox, may have put anything at that path. */
static int null_device(struct sandbox *sandbox)
{
    int file = tree_open(sandbox, "/dev/null", O_PATH | O_NOFOLLOW);
    if (!is_null_device(file))
        file = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (!is_null_device(file)) {
        errno = ENODEV;
        return step_failed(sandbox, "/dev/null");
    }
    return copy_mount(sandbox, file, 0, 0);
}

/* Open a path that may be missing: 1 open, 0 missing, -1 error. */
static int open_existing(const struct sandbox *sandbox, const char *path, int *file)
{
    *file = tree_open(sandbox, path, O_PATH);
    if (*file >= 0)
        return 1;
    return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
}

int step_mask(struct sandbox *sandbox, const union field *f)
{
    int target;
    int found = open_existing(sandbox, f[0].string, &target);
    if (found <= 0)
        return found;
    struct stat stat;
    if (fstat(target, &stat) < 0)
        return -1;
    int cover = S_ISDIR(stat.st_mode) ? empty_directory(sandbox) : null_device(sandbox);
    return cover < 0 ? -1 : attach(sandbox, cover, target);
}

int step_read_only(struct sandbox *sandbox, const union field *f)
{
    int target;
    int found = open_existing(sandbox, f[0].string, &target);
    if (found <= 0)
        return found;
    int mount = copy_mount(sandbox, target, K_AT_RECURSIVE, K_MOUNT_ATTR_RDONLY);
    return mount < 0 ? -1 : attach(sandbox, mount, target);
}

int step_pivot(struct sandbox *sandbox, const union field *f)
{
    (void)f;
    if (need_host(sandbox) < 0 || fchdir(sandbox->root) < 0)
        return -1;
    /* Old root on top of the new one, then away with it: no directory is needed to put it, see pivot_root(2). */
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return step_failed(sandbox, "pivot_root");
    if (umount2(".", MNT_DETACH) < 0)
        return step_failed(sandbox, "umount2");
    sandbox->pivoted = true;
    return chdir("/");
}
