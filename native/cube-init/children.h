/* What process 1 hands to forked children, so that it never waits for anything that the sandbox controls. */
#ifndef CUBE_CHILDREN_H
#define CUBE_CHILDREN_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "user.h"
#include "wire.h"

/* ERROR.stage on the control socket. */
enum stage { STAGE_USER = 1, STAGE_CWD, STAGE_EXEC, STAGE_PATH, STAGE_RESOURCES };

/* What a child reports to process 1 about the process it becomes: first {0, 0} with the descriptors of SPAWNED, then
 * nothing (executed: the socket is closed by exec) or why it failed. */
struct spawn_report {
    int32_t error;
    uint32_t stage;
};

enum { SPAWN_MAX_FDS = 3 };

/* Become the process that a SPAWN asks for. `report` is a SOCK_SEQPACKET socket to process 1. */
_Noreturn void spawn_child(struct message *request, int report);

/* Carry out one request about files or users and answer it on `control`. */
_Noreturn void worker_child(struct message *request, int control);

/* Serve one connection of the sudo client, who may do what it asks for. */
_Noreturn void sudo_child(int client);

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
enum { DEFAULT_VARIABLES = 5 }; /* that and HOME, USER, LOGNAME, SHELL */

/* Close everything from 3 upwards but these two (each may be -1). */
void close_others(int keep, int keep_too);

/* Signals, alarm and umask as a program expects them to begin with; `seconds` until SIGALRM ends the child. */
void child_begin(unsigned seconds);

/* A list of strings with a NULL at its end, and before that room for `spare` more. NULL without memory. */
char **get_strings(struct reader *body, size_t spare, size_t *count);

/* Execute a program, looked up in the PATH of `env`. Returns an errno. Nothing that the program must not have may be
 * open but for descriptors that exec closes. */
int execute(const char *program, char **argv, char **env);

/* One request about a path, as the handlers in files.c, remove.c, list.c and watch.c see it. The user has been become. */
struct job {
    int control;
    uint32_t id;
    struct message *request;
    struct user user;
    char path[PATH_MAX];
};

/* Each returns 0 when it has answered, else the errno to report with STAGE_PATH. */
int open_file(struct job *job);
int stat_path(struct job *job);
int list_directory(struct job *job);
int make_directory(struct job *job);
int move_path(struct job *job);
int remove_path(struct job *job);
int watch_directory(struct job *job);

/* Append the entry of `path`; 0 or an errno. `link_mode` (may be NULL) receives the mode of the path itself. */
int put_entry(struct writer *writer, const char *path, mode_t *link_mode);

/* Make the missing directories above `path`, mode 0755; 0 or an errno. `path` is restored. */
int make_parents(char *path);

/* Names of the entries of directories, in an arena that a walk uses as a stack: copy the struct before reading a
 * directory and copy it back when done with it. */
struct names {
    char *low;   /* names grow upwards … */
    char **high; /* … pointers to them downwards */
};

int names_begin(struct names *names);

/* The names in the directory at `path`, sorted: names->high[0 … count). `flags` are added to those of open(). 0 or an
 * errno, EOVERFLOW when they do not fit. */
int names_read(struct names *names, const char *path, int flags, size_t *count);

/* Make `path`, of which `length` characters are the directory, that of `name` in it; false when it becomes too long. */
bool path_enter(char path[PATH_MAX], size_t length, const char *name);

/* Send what was built: 0 or an errno. */
int answer(struct job *job, struct writer *writer, const int *fds, size_t n_fds);

#endif
