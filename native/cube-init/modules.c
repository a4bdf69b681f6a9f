/* The initramfs has the modules in /modules, and their order in /modules/order, one name a line. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

static void load(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
        guest_fail(path);
    close(fd);
    unlink(path);
}

void guest_load_modules(void)
{
    char name[200];
    FILE *order = fopen("/modules/order", "re");
    if (order == NULL)
        return; /* a kernel with everything built in */
    while (fgets(name, sizeof name, order) != NULL) {
        name[strcspn(name, "\n")] = 0;
        if (name[0])
            load(name);
    }
    fclose(order);
}
