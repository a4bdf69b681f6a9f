/* The template's image, read-only, and the sandbox's own layer over it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

enum { DISKS = 26, TRIES = 500, TRY_MICROSECONDS = 10000 };

/* The device of the disk with this serial number; false when there is none. */
static bool find(const char *serial, char *device, size_t size)
{
    char path[64], found[64];
    for (int i = 0; i < DISKS; i++) {
        snprintf(path, sizeof path, "/sys/block/vd%c/serial", 'a' + i);
        if (!guest_read(path, found, sizeof found) || strcmp(found, serial) != 0)
            continue;
        snprintf(device, size, "/dev/vd%c", 'a' + i);
        return true;
    }
    return false;
}

/* Devices are found while modules are loaded, or soon after. */
static bool wait_for(const char *serial, char *device, size_t size)
{
    for (int i = 0; i < TRIES; i++) {
        if (find(serial, device, size) && access(device, F_OK) == 0)
            return true;
        usleep(TRY_MICROSECONDS);
    }
    return false;
}

static void make(const char *path)
{
    if (mkdir(path, 0755) && errno != EEXIST)
        guest_fail(path);
}

static void mount_image(void)
{
    char device[32];
    make("/image");
    if (!wait_for("cube-image", device, sizeof device))
        guest_fail("no disk with the serial number cube-image");
    if (mount(device, "/image", "erofs", MS_RDONLY | MS_NODEV, NULL))
        guest_fail("mounting the image");
}

static void mount_layer(void)
{
    char device[32];
    make("/layer");
    bool found = find("cube-layer", device, sizeof device);
    if (found ? mount(device, "/layer", "ext4", MS_NODEV | MS_NOATIME, "discard,nobarrier")
              : mount("layer", "/layer", "tmpfs", MS_NODEV, "mode=755"))
        guest_fail("mounting the writable layer");
    make("/layer/upper");
    make("/layer/work");
}

void guest_mount_root(void)
{
    mount_image();
    mount_layer();
    make(GUEST_ROOT);
    if (mount("root", GUEST_ROOT, "overlay", 0,
              "lowerdir=/image,upperdir=/layer/upper,workdir=/layer/work,xino=off,redirect_dir=on"))
        guest_fail("mounting the root file system");
    make(GUEST_GENERATION);
    if (mount("generation", GUEST_GENERATION, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k"))
        guest_fail("mounting the generation");
}
