/* One program, several faces: see docs/cube-init.md. */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"
#include "launch.h"
#include "relay.h"
#include "serve.h"

static int usage(void)
{
    fputs("usage: cube-init launch FD\n"
          "       cube-init serve-test CONTROL_FD [LISTEN_FD [SUDO_UID...]]\n"
          "       cube-init relay-test LISTEN_FD CONTROL_FD\n"
          "cube-init is started by the cube service; run `cube up` instead.\n",
          stderr);
    return 2;
}

/* A decimal number from 0 to `max`, or -1. */
static int64_t number(const char *text, int64_t max)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool whole = errno == 0 && end != text && *end == 0;
    return whole && value >= 0 && value <= max ? value : -1;
}

/* serve() as an ordinary process, for tests of the serving half: no namespaces, no rights given up. */
static int serve_test(int argc, char **argv)
{
    enum { MAX_UIDS = 16 };
    uint32_t uids[MAX_UIDS];
    struct serve_config config = {.control_fd = -1, .listen_fd = -1, .sudo_uids = uids};
    config.control_fd = (int)number(argv[0], INT_MAX);
    if (argc > 1)
        config.listen_fd = (int)number(argv[1], INT_MAX);
    for (int i = 2; i < argc && config.n_sudo < MAX_UIDS; i++)
        uids[config.n_sudo++] = (uint32_t)number(argv[i], UINT32_MAX);
    return serve(&config);
}

/* relay() as an ordinary process, for tests: the serial port is what connects to a socket. */
static int relay_test(char **argv)
{
    const struct relay_config config = {
        .port = -1, .listener = (int)number(argv[0], INT_MAX), .control = (int)number(argv[1], INT_MAX)};
    return config.listener < 0 || config.control < 0 ? usage() : relay(&config);
}

static bool named_sudo(const char *name)
{
    size_t length = strlen(name);
    return length >= 4 && strcmp(name + length - 4, "sudo") == 0;
}

int main(int argc, char **argv)
{
    if (getpid() == 1 && strcmp(argv[0], "/init") == 0)
        guest_main();
    if (argc > 0 && named_sudo(argv[0]))
        return sudo_main(argc, argv);
    if (argc == 3 && strcmp(argv[1], "launch") == 0) {
        int64_t fd = number(argv[2], INT_MAX);
        return fd < 0 ? usage() : launch((int)fd);
    }
    if (argc >= 3 && strcmp(argv[1], "serve-test") == 0)
        return serve_test(argc - 2, argv + 2);
    if (argc == 4 && strcmp(argv[1], "relay-test") == 0)
        return relay_test(argv + 2);
    return usage();
}
