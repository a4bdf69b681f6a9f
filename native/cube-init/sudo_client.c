/* `sudo`, as executed inside a sandbox: asks process 1, see sudo.h. It has no rights of its own and needs none. */
#include "sudo_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "children.h"
#include "sudo.h"

struct run {
    struct sudo_options options;
    struct user caller, target;
    const char *program;
    char **argv;
    char *text; /* the command, for SUDO_COMMAND and for `-l` */
    bool terminal;
};

static struct run run;

static int complain(const char *what, const char *detail)
{
    fprintf(stderr, "sudo: %s%s\n", what, detail);
    return 1;
}

/* A shell finds closed descriptors no stranger than a terminal; sendmsg does. */
static void open_missing_stdio(void)
{
    int fd = open("/dev/null", O_RDWR | O_NOCTTY);
    while (fd >= 0 && fd < 3)
        fd = dup(fd);
    if (fd >= 3)
        close(fd);
}

static char *joined(char **words)
{
    size_t size = 1;
    for (char **word = words; *word; word++)
        size += strlen(*word) + 1;
    char *text = calloc(size, 1), *end = text;
    for (char **word = words; text != NULL && *word; word++)
        end += sprintf(end, "%s%s", word == words ? "" : " ", *word);
    return text;
}

/* For `shell -c`: every character that a shell might take for something else gets a backslash, as sudo does it. */
static char *quoted(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-$";
    char *result = malloc(2 * strlen(text) + sizeof "''"), *end = result;
    if (result == NULL)
        return NULL;
    if (!*text)
        return strcpy(result, "''");
    for (; *text; text++) {
        if (!strchr(plain, *text) && !((unsigned char)*text & 0x80))
            *end++ = '\\';
        *end++ = *text;
    }
    *end = 0;
    return result;
}

/* The words quoted one by one, so that the spaces between them stay spaces. */
static char *script(char **words)
{
    for (char **word = words; *word; word++)
        if ((*word = quoted(*word)) == NULL)
            return NULL;
    return joined(words);
}

static int use_shell(const char *shell)
{
    static char name[PATH_MAX];
    static char *argv[4] = {name, NULL, NULL, NULL};
    const char *last = strrchr(shell, '/');
    snprintf(name, sizeof name, "%s%s", run.options.login ? "-" : "", last ? last + 1 : shell);
    if (run.options.command[0]) {
        argv[1] = "-c";
        argv[2] = script(run.options.command);
        if (argv[2] == NULL)
            return complain("", strerror(ENOMEM));
    }
    run.program = shell;
    run.argv = argv;
    run.text = (char *)shell;
    return 0;
}

static int choose_command(void)
{
    const char *shell = getenv("SHELL");
    if (run.options.login)
        return use_shell(run.target.shell);
    if (run.options.shell)
        return use_shell(shell && *shell ? shell : run.caller.shell);
    run.argv = run.options.command;
    run.program = run.argv[0] ? run.argv[0] : "";
    run.text = joined(run.argv);
    return run.text == NULL ? complain("", strerror(ENOMEM)) : 0;
}

static int choose_users(void)
{
    char id[16];
    const char *wanted = run.options.user;
    snprintf(id, sizeof id, "%u", getuid());
    if (user_find(id, strlen(id), &run.caller))
        return complain("there is no user with the number ", id);
    if (wanted == NULL)
        wanted = run.options.group ? run.caller.name : "root";
    if (*wanted == '#')
        wanted++;
    /* Nobody, which elsewhere means root: `sudo -u "$UNSET"` must not. */
    if (*wanted == 0 || user_find(wanted, strlen(wanted), &run.target))
        return complain("unknown user ", wanted);
    return 0;
}

static int connect_to_process_1(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path + 1, SUDO_ADDRESS, sizeof SUDO_ADDRESS - 1);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + sizeof SUDO_ADDRESS;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, size) == 0)
        return fd;
    close(fd);
    return -1;
}

static void put_strings(struct writer *writer, char **strings)
{
    size_t count_at = writer->used;
    uint32_t count = 0;
    put_u32(writer, 0);
    for (; strings[count]; count++)
        put_string(writer, strings[count]);
    put_u32_at(writer, count_at, count);
}

static uint32_t flags(void)
{
    uint32_t found = run.options.background ? SUDO_BACKGROUND : 0;
    if (run.terminal)
        found |= SUDO_TERMINAL | (isatty(2) ? SUDO_TERMINAL_STDERR : 0);
    return found;
}

static int send_request(int socket, char **env)
{
    struct writer writer;
    struct winsize size = {0};
    struct termios termios = {0};
    int fds[] = {open(".", O_PATH | O_DIRECTORY | O_CLOEXEC), 0, 1, 2};
    if (fds[0] < 0)
        return -1;
    ioctl(0, TIOCGWINSZ, &size);
    tcgetattr(0, &termios);
    put_begin(&writer, SUDO_RUN, 0);
    put_u32(&writer, flags());
    put_u32(&writer, size.ws_col);
    put_u32(&writer, size.ws_row);
    put_bytes(&writer, &termios, sizeof termios);
    put_string(&writer, run.options.user && *run.options.user == '#' ? run.options.user + 1 : run.target.name);
    put_string(&writer, run.options.group ? run.options.group : "");
    put_string(&writer, run.options.directory ? run.options.directory : run.options.login ? "~" : "");
    put_string(&writer, run.program);
    put_strings(&writer, run.argv);
    put_strings(&writer, env);
    return put_send(&writer, socket, fds, sizeof fds / sizeof *fds);
}

static int show_rights(void)
{
    if (run.options.command[0])
        printf("%s\n", run.text);
    else
        printf("User %s may run the following commands in this sandbox:\n    (ALL : ALL) NOPASSWD: ALL\n",
               run.caller.name);
    return fflush(stdout) ? 1 : 0;
}

int sudo_main(int argc, char **argv)
{
    static char *nothing[] = {NULL};
    open_missing_stdio();
    int status = sudo_options(argc, argv, &run.options);
    if (status < 0)
        status = choose_users();
    if (status == 0 && run.options.command)
        status = choose_command();
    if (status || !run.argv)
        return status;
    bool asks_only = run.options.list || run.options.validate;
    if (asks_only)
        run.argv = nothing;
    run.terminal = !asks_only && !run.options.background && isatty(0) && isatty(1);
    char **env = sudo_environment(&run.options, &run.caller, &run.target, run.text);
    int socket = connect_to_process_1();
    if (socket < 0)
        return complain("nobody may run commands as another user in this sandbox", "");
    /* When process 1 has hung up already, its reason is there to be read. */
    if (env == NULL || (send_request(socket, env) && errno != EPIPE && errno != ECONNRESET))
        return complain("the command cannot be passed on: ", strerror(errno));
    status = sudo_relay(socket, run.terminal, run.options.background, run.program);
    return status == 0 && run.options.list ? show_rights() : status;
}
