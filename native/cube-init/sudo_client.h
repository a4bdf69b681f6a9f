/* The parts of the sudo client: options, environment, and the time while the command runs. */
#ifndef CUBE_SUDO_CLIENT_H
#define CUBE_SUDO_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "user.h"

enum { SUDO_MAX_ARGUMENTS = 65536 };

struct sudo_options {
    const char *user, *group, *directory;
    bool keep_environment, login, shell, set_home, background, list, validate, forget;
    const char *keep_names; /* comma separated */
    char **assignments;     /* NAME=value before the command */
    size_t n_assignments;
    char **command; /* NULL-terminated, may be empty */
};

/* Read the command line. -1: go on; else the exit status. */
int sudo_options(int argc, char **argv, struct sudo_options *options);

/* The environment of the command, NULL-terminated. `command` is its text for SUDO_COMMAND. */
char **sudo_environment(const struct sudo_options *options, const struct user *caller, const struct user *target,
                        const char *command);

/* Serve the running command until it has ended; returns the exit status. */
int sudo_relay(int socket, bool terminal, bool background, const char *program);

#endif
