/* Ports of the serial device, by the names that the host has given them. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

enum { TRIES = 500, TRY_MICROSECONDS = 10000 };

static bool find(const char *name, char *device, size_t size)
{
    char path[300], found[64];
    bool there = false;
    DIR *ports = opendir("/sys/class/virtio-ports");
    const struct dirent *entry;
    while (ports != NULL && !there && (entry = readdir(ports)) != NULL) {
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        there = guest_read(path, found, sizeof found) && strcmp(found, name) == 0;
        if (there)
            snprintf(device, size, "/dev/%s", entry->d_name);
    }
    if (ports != NULL)
        closedir(ports);
    return there;
}

/* The host names its ports in a message that the driver may not have got yet. */
int guest_open_port(const char *name)
{
    char device[300];
    for (int i = 0; i < TRIES; i++) {
        if (find(name, device, sizeof device)) {
            int fd = open(device, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
            if (fd >= 0)
                return fd;
        }
        usleep(TRY_MICROSECONDS);
    }
    guest_fail("no serial port " GUEST_PORT);
}
