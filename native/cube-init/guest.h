/* cube-init as /init of a microVM: it boots the machine, starts process 1 of the sandbox in a process namespace and a tree
 * of mounts of its own, and stays outside as the relay, where nothing in the sandbox sees it. */
#ifndef CUBE_GUEST_H
#define CUBE_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "relay.h"

#define GUEST_ROOT "/root"                      /* the sandbox's file system, as the relay sees it */
#define GUEST_GROUP "/sys/fs/cgroup/sandbox"    /* the control group of everything in the sandbox */
#define GUEST_GENERATION "/generation"          /* a tmpfs whose one file tells the sandbox of its generation */
#define GUEST_PORT "cube.control"

enum { GUEST_MAX_SUDO = 16 };

struct guest_options {
    uint32_t sudo_uids[GUEST_MAX_SUDO];
    size_t n_sudo;
    uint64_t pids, open_files; /* limits, 0 for none */
};

/* /init; does not return. */
_Noreturn void guest_main(void);

/* Tell the console what failed, with errno, and turn the machine off. */
_Noreturn void guest_fail(const char *what);

/* options.c: from the kernel's command line. */
void guest_read_options(struct guest_options *options);

/* modules.c: load the modules of the initramfs in their order, and free the memory of their files. */
void guest_load_modules(void);

/* disks.c: put the sandbox's file system together at GUEST_ROOT. */
void guest_mount_root(void);

/* ports.c: open the port with this name. */
int guest_open_port(const char *name);

/* inside.c: start process 1; returns the relay's end of its control socket. */
int guest_start_inside(const struct guest_options *options);

/* identity.c: what the relay does for the host. */
extern const struct machine guest_machine;

/* network.c: 0 or an errno. */
struct guest_address {
    uint32_t address, gateway; /* network byte order */
    uint32_t prefix, mtu;
};
int network_up(void);
int network_configure(const struct guest_address *address);

/* Whether it ever had an address, in the life of this memory. */
bool network_used(void);

/* sockets.c: end established TCP connections to others; 0 or an errno. */
int sockets_reset(void);

/* files of the kernel: 0, or -1 with errno. */
int guest_write(const char *path, const char *text);

/* Its content, terminated, without the end of the line; false when it cannot be read. */
bool guest_read(const char *path, char *text, size_t size);

#endif
